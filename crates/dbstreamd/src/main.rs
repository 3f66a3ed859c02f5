//! The `dbstreamd` program: everything it can do is in the library's `cli`.

fn main() -> std::process::ExitCode {
    dbstreamd::cli::main()
}

/// Functions of this section come before all constructors (System V ABI, "Initialization and Termination Functions"). It stands
/// here and not in the library because what stands here is linked in any case.
// SAFETY: the section is an array of pointers to functions, and this is one.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(unsafe_code)]
#[used]
#[unsafe(link_section = ".preinit_array")]
static LOOK_AT_THE_PROCESSOR: extern "C" fn() = dbstreamd::processor::look;
