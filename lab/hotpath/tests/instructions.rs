//! No step of the hot path costs more instructions than its baseline, as callgrind counts them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::process::Command;

/// What differs between compilers and libraries without anybody having changed anything.
const TOLERANCE: f64 = 0.10;
const ROWS: usize = 20_000;

#[derive(serde::Deserialize)]
struct Baseline {
    parse: f64,
    append: f64,
    encode: f64,
}

/// Where a chunk becomes bytes: a step of its own, called by the one before it.
const ENCODE: &str = "dbstreamd_log::chunk::frame::encode";

/// Instructions within calls of this function, per row; those of the step within it left out.
fn counted(function: &str) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("callgrind.out");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--compress-strings=no", &format!("--toggle-collect={function}")])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env!("CARGO_BIN_EXE_dbstreamd-hotpath"))
        .arg(ROWS.to_string())
        .output()
        .unwrap_or_else(|error| panic!("valgrind: {error}; `scripts/setup.sh test` installs it"));
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(String::from_utf8_lossy(&run.stdout), format!("{ROWS} events\n"));
    let text = std::fs::read_to_string(&out).unwrap();
    let within = if function == ENCODE { 0.0 } else { instructions_of_calls(&text, ENCODE) };
    (instructions(&text) - within) / ROWS as f64
}

fn instructions(text: &str) -> f64 {
    let summary = text.lines().find_map(|line| line.strip_prefix("summary: ")).unwrap_or_else(|| panic!("{text}"));
    summary.trim().parse().unwrap()
}

/// What calls of `function` took, everything in them included: `cfn=`, `calls=`, then the line with the cost
/// (Callgrind Format Specification, "Cost Lines" and "Calls").
fn instructions_of_calls(text: &str, function: &str) -> f64 {
    let lines: Vec<_> = text.lines().collect();
    let calls = lines.windows(3).filter(|lines| lines[0].strip_prefix("cfn=") == Some(function));
    calls.map(|lines| lines[2].rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn no_step_costs_more_instructions_than_its_baseline() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.toml")).unwrap();
    let baseline: Baseline = toml::from_str(&text).unwrap();
    let steps = [
        ("parse", "dbstreamd_hotpath::parse", baseline.parse),
        ("append", "dbstreamd_hotpath::append", baseline.append),
        ("encode", ENCODE, baseline.encode),
    ];
    let mut worse = Vec::new();
    for (step, function, baseline) in steps {
        let found = counted(function);
        let ratio = found / baseline;
        eprintln!("{step}: {found:.1} instructions per row, {ratio:.3} of the baseline");
        assert!(found > 10.0, "{function} was not counted");
        if ratio > 1.0 + TOLERANCE {
            worse.push(format!("{step} takes {found:.1} instructions per row, {ratio:.3} of its baseline"));
        }
        if ratio < 1.0 - TOLERANCE {
            worse.push(format!("{step} takes {found:.1} instructions per row, {ratio:.3} of its baseline: lower it"));
        }
    }
    assert!(worse.is_empty(), "{}", worse.join("; "));
}
