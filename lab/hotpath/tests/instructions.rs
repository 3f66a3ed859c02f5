//! No step of the hot path costs more instructions than its baseline, as callgrind counts them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
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

/// Instructions within calls of these functions, per row.
fn counted(function: &str) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("callgrind.out");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", &format!("--toggle-collect={function}")])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env!("CARGO_BIN_EXE_dbstreamd-hotpath"))
        .arg(ROWS.to_string())
        .output()
        .unwrap_or_else(|error| panic!("valgrind: {error}; `scripts/setup.sh test` installs it"));
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(String::from_utf8_lossy(&run.stdout), format!("{ROWS} events\n"));
    instructions(&out) / ROWS as f64
}

fn instructions(out: &Path) -> f64 {
    let text = std::fs::read_to_string(out).unwrap();
    let summary = text.lines().find_map(|line| line.strip_prefix("summary: ")).unwrap_or_else(|| panic!("{text}"));
    summary.trim().parse().unwrap()
}

#[test]
fn no_step_costs_more_instructions_than_its_baseline() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.toml")).unwrap();
    let baseline: Baseline = toml::from_str(&text).unwrap();
    let steps = [
        ("parse", "dbstreamd_hotpath::parse", baseline.parse),
        ("append", "dbstreamd_hotpath::append", baseline.append),
        ("encode", "dbstreamd_log::chunk::frame::encode", baseline.encode),
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
