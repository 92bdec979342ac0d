//! How far apart two changes of a file must be, so that its times differ.

use std::sync::LazyLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_getres};

/// The first version of Linux with times that are fine where they must be: if a file was looked at since its last
/// change, the next change gets another time. Source: Documentation/filesystems/multigrain-ts.rst of the kernel.
const FINE_SINCE: (u32, u32) = (6, 13);

/// The filesystems with such times.
const FINE: [&str; 4] = ["btrfs", "ext4", "tmpfs", "xfs"];

/// The kernel's tick, with which file times advance otherwise.
static TICK: LazyLock<Duration> =
    LazyLock::new(|| Duration::try_from(clock_getres(ClockId::RealtimeCoarse)).unwrap_or_default());

static IS_FINE: LazyLock<bool> = LazyLock::new(|| {
    version_of(&rustix::system::uname().release().to_string_lossy()).is_some_and(|version| version >= FINE_SINCE)
});

/// How long after a look the times of a file may stay the same although it changes, on a filesystem of this type.
pub(super) fn step(filesystem: &str) -> Duration {
    if *IS_FINE && FINE.contains(&filesystem) { Duration::ZERO } else { *TICK }
}

/// The first two numbers of a version of the kernel, such as `6.1.0-18-amd64`.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_fine_on_new_kernels_and_advance_with_the_tick_elsewhere() {
        assert!((Duration::from_millis(1)..=Duration::from_millis(10)).contains(&*TICK), "{:?}", *TICK);
        assert_eq!(step("vfat"), *TICK);
        assert_eq!(step("ext4"), if *IS_FINE { Duration::ZERO } else { *TICK });
        let is_fine = |release| version_of(release).is_some_and(|version| version >= FINE_SINCE);
        for (release, expected) in [
            ("6.13.0", true),
            ("6.18.44-fc-v657", true),
            ("7.0-rc1", true),
            ("6.1.0-18-amd64", false),
            ("5.15.0", false),
        ] {
            assert_eq!(is_fine(release), expected, "{release}");
        }
        assert!(!is_fine("unknown"));
    }
}
