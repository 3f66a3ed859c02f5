//! The arithmetic of the table, what is refused, and that each profile fits where it says it does.

use super::*;
use crate::config::{ConfigError, Overrides};

fn machine(bytes: u64) -> Machine {
    Machine { limit: Some(Limit { bytes, origin: LimitOrigin::Machine }), processors: 8 }
}

fn load(machine: &Machine, memory: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dbstreamd.toml");
    std::fs::write(&file, format!("[[source]]\nurl = \"postgres://h/d\"\n[memory]\n{memory}\n")).unwrap();
    Config::load_on(machine, Some(&file), &Overrides::default(), &Default::default())
}

fn part(config: &Config, component: Component) -> u64 {
    config.memory.rows.iter().find(|row| row.component == component).unwrap().bytes
}

#[test]
fn each_profile_fits_the_machine_it_is_for() {
    for (profile, bytes) in [("small", 128_000_000), ("standard", 2048 * MIB), ("large", 16_000_000_000)] {
        let config = load(&machine(bytes), &format!("profile = \"{profile}\"")).unwrap();
        config.memory.check().unwrap_or_else(|error| panic!("{error}\n{}", config.memory));
        assert!(config.memory.needed() > bytes / 3, "{profile} leaves much unused:\n{}", config.memory);
    }
}

#[test]
fn the_sum_is_everybodys_part_and_a_fifth_of_all_is_headroom() {
    let budget = load(&machine(8 << 30), "").unwrap().memory;
    assert_eq!(budget.sum(), budget.rows.iter().map(|row| row.bytes).sum::<u64>());
    assert_eq!(budget.needed() - budget.sum(), budget.sum() / 4);
    let exactly = Budget { limit: Some(Limit { bytes: budget.needed(), origin: LimitOrigin::Setting }), ..budget };
    assert!(exactly.check().is_ok());
    let less = Limit { bytes: exactly.needed() - 1, origin: LimitOrigin::Setting };
    assert!(Budget { limit: Some(less), ..exactly.clone() }.check().is_err());
    assert!(
        Budget { limit: None, ..exactly }.check().is_ok(),
        "where nobody says how much there is, nothing is checked"
    );
}

#[test]
fn the_usual_profile_gives_way_to_the_small_one_and_says_so_unless_one_was_asked_for() {
    let roomy = load(&machine(4 << 30), "").unwrap();
    assert_eq!((roomy.memory.profile, roomy.memory_note), (Profile::Standard, None));
    let tight = load(&machine(512 * MIB), "tail = \"20MiB\"").unwrap();
    assert_eq!(tight.memory.profile, Profile::Small);
    assert!(tight.memory_note.as_ref().is_some_and(|note| note.contains("512.0 MiB of this machine")));
    assert_eq!(part(&tight, Component::Tail), 20 * MIB, "what was set stays");
    assert!(tight.memory.fits());
    let asked = load(&machine(512 * MIB), "profile = \"standard\"").unwrap();
    assert_eq!(asked.memory.profile, Profile::Standard);
    assert!(!asked.memory.fits());
}

#[test]
fn one_source_can_use_an_eighth_of_the_window_and_eight_can_use_it_all() {
    let mut config = load(&machine(8 << 30), "credit_window = \"80MiB\"").unwrap();
    assert_eq!(part(&config, Component::CreditWindow), 10 * MIB);
    config.sources = vec![config.sources[0].clone(); 20];
    let all = Budget::of(&config, Profile::Standard, None);
    assert_eq!(all.rows.iter().find(|row| row.component == Component::CreditWindow).unwrap().bytes, 80 * MIB);
}

#[test]
fn a_refusal_shows_who_wants_what_the_limit_and_the_remedy() {
    let config = load(&machine(2 << 30), "block_cache = \"1900MiB\"").unwrap();
    let error = config.memory.check().unwrap_err();
    let text = error.to_string();
    for word in ["2.0 GiB of this machine", "memory.block_cache", "headroom included"] {
        assert!(text.contains(word), "{text}");
    }
    assert!(!text.contains("memory.profile"), "it is small already: {text}");
    let asked = load(&machine(1 << 30), "profile = \"large\"").unwrap().memory.check().unwrap_err().to_string();
    assert!(asked.contains("memory.profile = \"small\""), "{asked}");
    let table = error.budget.to_string();
    for row in &error.budget.rows {
        assert!(table.lines().any(|line| line.starts_with(row.component.name())), "{table}");
    }
    for word in ["sum", "headroom", "more than the limit", "profile small", "1.9 GiB", "never compacted"] {
        assert!(table.contains(word), "{word}:\n{table}");
    }
}

#[test]
fn values_that_cannot_be_meant_are_refused_with_the_range() {
    for (memory, words) in [
        ("tail = 0", ["memory.tail: 0 B", "from 1.0 MiB to the 1.0 GiB of this machine"]),
        ("memtables = \"1025MiB\"", ["memory.memtables: 1.1 GiB", "from 1.0 MiB to the 1.0 GiB"]),
        ("total = \"2GiB\"", ["memory.total: 2.0 GiB", "from 64.0 MiB to the 1.0 GiB"]),
        ("total = \"1MiB\"", ["memory.total: 1.0 MiB", "from 64.0 MiB"]),
        ("delivery = \"9999TiB\"", ["memory.delivery", "out of range"]),
        ("block_cache = -5", ["memory.block_cache", "is not a size"]),
        ("profile = \"tiny\"", ["memory.profile", "small"]),
    ] {
        let error = load(&machine(1 << 30), memory).unwrap_err().to_string();
        assert!(error.contains("dbstreamd.toml:4") && words.iter().all(|word| error.contains(word)), "{error}");
    }
    let variables = [("DBSTREAMD_MEMORY_TAIL".to_owned(), "1B".to_owned())].into_iter().collect();
    let error = Config::load_on(&machine(1 << 30), None, &Overrides::default(), &variables).unwrap_err().to_string();
    assert!(error.starts_with("environment variable DBSTREAMD_MEMORY_TAIL: 1 B is out of range"), "{error}");
}
