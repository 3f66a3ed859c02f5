//! The table as people read it: in a refusal, and as `dbstreamd memory` prints it.

use std::fmt;

use super::{Budget, MIB};

/// A size in the unit that suits it: `22.0 MiB`, `1.7 GiB`.
pub(crate) fn size_text(bytes: u64) -> String {
    let tenths = |unit: u64| {
        let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(unit));
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..MIB => format!("{} KiB", tenths(1024)),
        bytes if bytes < 1024 * MIB => format!("{} MiB", tenths(MIB)),
        _ => format!("{} GiB", tenths(1024 * MIB)),
    }
}

impl fmt::Display for Budget {
    /// Several lines, the last one without a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, bytes: Option<u64>, setting: &str, what: &str| {
            let size = bytes.map_or_else(|| "unknown".to_owned(), size_text);
            let line = format!("{name:<14} {size:>10}  {setting:<23} {what}");
            writeln!(f, "{}", line.trim_end())
        };
        for row in &self.rows {
            line(row.component.name(), Some(row.bytes), row.component.setting().unwrap_or("-"), &row.what)?;
        }
        line("sum", Some(self.sum()), &format!("profile {}", self.profile.name()), "")?;
        line(
            "headroom",
            Some(self.needed() - self.sum()),
            "-",
            "a fifth of all, for the operating system and the allocator",
        )?;
        line("needed", Some(self.needed()), "", if self.fits() { "" } else { "more than the limit" })?;
        let origin = self
            .limit
            .as_ref()
            .map_or_else(|| "nobody says how much there is, so nothing is checked".into(), ToString::to_string);
        let limit = format!(
            "{:<14} {:>10}  {:<23} {origin}",
            "limit",
            self.limit.as_ref().map_or_else(|| "unknown".to_owned(), |limit| size_text(limit.bytes)),
            "memory.total"
        );
        f.write_str(&limit)
    }
}
