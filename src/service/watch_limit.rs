//! The kernel's limit of watches, and how many the library needs.

use std::fs;

use crate::disk::Root;
use crate::library::FileCount;

/// Where the kernel says how many directories a user may watch, with the name of the setting: for all users of the host,
/// and for those of a user namespace.
const LIMITS: [(&str, &str); 2] = [
    ("/proc/sys/fs/inotify/max_user_watches", "fs.inotify.max_user_watches"),
    ("/proc/sys/user/max_inotify_watches", "user.max_inotify_watches"),
];

/// The least limit that is recommended. Each watch that is used takes about a kilobyte of the kernel's memory.
const RECOMMENDED: u64 = 1 << 20;

/// How many directories this user may watch, in all programs together.
pub(super) fn watches_allowed() -> Option<u64> {
    limit().map(|(allowed, _)| allowed)
}

/// Says how many watches the library needs and how many are allowed, and how to raise the limit. Lists all directories.
pub(super) fn explain(root: &Root) -> String {
    let count = FileCount::default();
    count.run(root);
    match limit() {
        Some((allowed, setting)) => describe(count.directories(), allowed, setting),
        None => format!("the library needs {} watches, and the kernel allows fewer", count.directories()),
    }
}

fn limit() -> Option<(u64, &'static str)> {
    let read = |(file, setting)| Some((fs::read_to_string(file).ok()?.trim().parse().ok()?, setting));
    LIMITS.into_iter().filter_map(read).min()
}

fn describe(needed: u64, allowed: u64, setting: &str) -> String {
    let better = needed.saturating_mul(2).checked_next_power_of_two().unwrap_or(u64::MAX).max(RECOMMENDED);
    let whose = if needed > allowed { "" } else { ", and other programs of this user have watches too" };
    format!(
        "the library needs {needed} watches and {setting} allows {allowed}{whose}; raise it on the host: sysctl \
         {setting}={better}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_what_is_needed_what_is_allowed_and_what_helps() {
        assert_eq!(
            describe(41, 20, "fs.inotify.max_user_watches"),
            "the library needs 41 watches and fs.inotify.max_user_watches allows 20; raise it on the host: sysctl \
             fs.inotify.max_user_watches=1048576"
        );
        assert!(describe(900_000, 65_536, "x").ends_with("sysctl x=2097152"));
        assert!(describe(10, 20, "x").contains("other programs"));
    }
}
