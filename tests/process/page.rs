//! The page of a running service in a real browser.

use std::path::Path;
use std::process::Command;

#[test]
fn the_page_shows_what_the_service_does() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/service.py");
    let output = Command::new("/usr/bin/python3").arg(script).arg(env!("CARGO_BIN_EXE_file-watcher")).output().unwrap();
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}\n{errors}");
    let checks = printed.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(checks >= 20, "it checks what it should: {printed}");
}
