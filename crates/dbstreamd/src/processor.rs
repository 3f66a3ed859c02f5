//! Whether this processor has what the program was compiled for: without, it would end with an illegal instruction and say
//! nothing. Virtual machines with a model like `kvm64` or `qemu64` are where that still happens.
//!
//! Looked at before anything else, since what C++ does before `main` may need what is lacking: `main.rs` says so to the linker.

/// Ends the process with a message where something is lacking. Needs nothing that is set up later than by the dynamic linker.
pub extern "C" fn look() {
    let lacking = lacking();
    if !lacking.is_empty() {
        crate::cli::note(&refusal(&lacking));
        std::process::exit(1);
    }
}

fn refusal(lacking: &[&str]) -> String {
    format!(
        "error: this processor lacks {}, which dbstreamd was compiled for: in a virtual machine choose a newer model of processor \
         (or the host's), elsewhere build it from source with fewer rustflags in .cargo/config.toml",
        lacking.join(", ")
    )
}

/// What the program needs and this processor lacks, by the names that compilers use; empty where all is well.
///
/// `.cargo/config.toml` says what is compiled for; instructions newer than that are only used where they are found.
fn lacking() -> Vec<&'static str> {
    // The macro of the standard library answers from what was compiled for, without a look at the processor.
    let basic = std::arch::x86_64::__cpuid(1).ecx;
    compiled_for().filter(|(_, bit)| basic & (1 << bit) == 0).map(|(name, _)| name).collect()
}

/// What is compiled for, each with its bit of ECX after CPUID with EAX 1 (Intel's Software Developer's Manual, volume 2, CPUID).
fn compiled_for() -> impl Iterator<Item = (&'static str, u32)> {
    let known = [
        ("sse3", 0, cfg!(target_feature = "sse3")),
        ("pclmulqdq", 1, cfg!(target_feature = "pclmulqdq")),
        ("ssse3", 9, cfg!(target_feature = "ssse3")),
        ("cmpxchg16b", 13, cfg!(target_feature = "cmpxchg16b")),
        ("sse4.1", 19, cfg!(target_feature = "sse4.1")),
        ("sse4.2", 20, cfg!(target_feature = "sse4.2")),
        ("popcnt", 23, cfg!(target_feature = "popcnt")),
    ];
    known.into_iter().filter(|(_, _, needed)| *needed).map(|(name, bit, _)| (name, bit))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_processor_that_runs_this_lacks_nothing() {
        assert_eq!(super::lacking(), [""; 0]);
    }

    #[test]
    fn a_refusal_names_what_is_lacking_and_what_to_do() {
        let said = super::refusal(&["sse4.2", "popcnt"]);
        assert!(
            said.contains("lacks sse4.2, popcnt,") && said.contains("newer model") && said.contains("rustflags"),
            "{said}"
        );
    }
}
