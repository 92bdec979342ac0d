//! The house rules of `src/lib.rs`: a module uses lower floors only, and modules of one floor are strangers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every module by its floor, from the ground up. `src/lib.rs` shows the same to its readers.
const HOUSE: &[(u32, &[&str])] = &[
    (0, &["failpoint", "model"]),
    (1, &["classify", "engine", "message", "metrics", "screen", "stream", "disk"]),
    (2, &["library", "content", "store", "sink", "status"]),
    (3, &["pipeline"]),
    (4, &["config", "control", "http", "telemetry", "traces"]),
    (5, &["service"]),
    (6, &["cli"]),
];

fn floors() -> BTreeMap<String, u32> {
    HOUSE.iter().flat_map(|(floor, modules)| modules.iter().map(|module| ((*module).to_owned(), *floor))).collect()
}

/// A file of the program, without its tests and comments.
struct Source {
    path: PathBuf,
    /// The module under the crate's root that the file belongs to.
    module: String,
    /// Whether it is that module's own root, so that `super` in it is the crate.
    is_module_root: bool,
    code: String,
}

#[test]
fn modules_use_lower_floors_only() {
    let floors = floors();
    let mut violations = Vec::new();
    for source in sources() {
        for (line, used) in modules_used(&source) {
            let may = used == source.module || floors.get(&used) < floors.get(&source.module);
            if !may {
                violations.push(format!("{}: {} uses {used} in `{line}`", source.path.display(), source.module));
            }
        }
    }
    assert!(violations.is_empty(), "not on a lower floor:\n{}", violations.join("\n"));
}

#[test]
fn every_module_has_its_floor_in_the_map() {
    let library = fs::read_to_string(src().join("lib.rs")).unwrap();
    let mut mapped = BTreeMap::new();
    for row in library.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = row.split('|').map(str::trim);
        let (Some(floor), Some(modules)) = (cells.next(), cells.next()) else { continue };
        let Ok(floor) = floor.parse::<u32>() else { continue };
        for module in modules.split(',') {
            mapped.insert(module.trim().trim_matches(['[', ']', '`']).to_owned(), floor);
        }
    }
    assert_eq!(mapped, floors(), "the map in src/lib.rs and the floors held here differ");

    let mut declared: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    declared.sort_unstable();
    assert_eq!(declared, floors().keys().collect::<Vec<_>>(), "modules without a floor, or floors without a module");
}

/// The test above is worth nothing if it reads past what it looks for.
#[test]
fn the_reader_finds_uses_and_skips_tests_and_comments() {
    let text = "use crate::model::Row; // not crate::sink\n//! nor [`crate::cli`]\nfn f() { crate::disk::g(super::up()) }\n\
                #[cfg(test)]\nmod tests { use crate::service; }\n";
    let source = Source { path: "x.rs".into(), module: "x".into(), is_module_root: true, code: code_of(text) };
    let used: Vec<String> = modules_used(&source).into_iter().map(|(_, used)| used).collect();
    assert_eq!(used, ["model", "disk", "up"]);
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules of the crate that `source` names, each with the line that does.
fn modules_used(source: &Source) -> Vec<(String, String)> {
    let mut used = Vec::new();
    for line in source.code.lines() {
        let prefixes: &[&str] = if source.is_module_root { &["crate::", "super::"] } else { &["crate::"] };
        for prefix in prefixes {
            for (_, rest) in line.match_indices(prefix).map(|(at, _)| line.split_at(at + prefix.len())) {
                assert!(
                    !rest.starts_with(['{', '*']),
                    "{}: name one module a line, so that this test can read it: {line}",
                    source.path.display()
                );
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                used.push((line.trim().to_owned(), name));
            }
        }
    }
    used
}

/// Every file of the library but its root, without those that are only compiled for tests.
fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    collect(&src(), &mut files);
    let tests_only: Vec<PathBuf> = files.iter().flat_map(|file| test_modules(file)).collect();
    let outside =
        |file: &PathBuf| file.parent() == Some(&*src()) && (file.ends_with("lib.rs") || file.ends_with("main.rs"));
    let sources: Vec<Source> = files
        .into_iter()
        .filter(|file| !outside(file) && !tests_only.contains(file))
        .map(|path| {
            let inside = path.strip_prefix(src()).unwrap();
            let module = inside.components().next().unwrap().as_os_str().to_string_lossy();
            let module = module.trim_end_matches(".rs").to_owned();
            let depth = inside.components().count();
            let is_module_root = depth == 1 || (depth == 2 && path.ends_with("mod.rs"));
            let code = code_of(&fs::read_to_string(&path).unwrap());
            Source { path: Path::new("src").join(inside), module, is_module_root, code }
        })
        .collect();
    assert!(sources.len() >= HOUSE.len(), "the sources were not found");
    sources
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The files that `file` declares as modules for tests.
fn test_modules(file: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let directory = match file.file_name().and_then(|name| name.to_str()) {
        Some("mod.rs" | "lib.rs") => file.parent().unwrap().to_path_buf(),
        _ => file.with_extension(""),
    };
    lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .filter_map(|pair| pair[1].strip_prefix("mod ")?.strip_suffix(';'))
        .map(|module| directory.join(module).with_extension("rs"))
        .collect()
}

/// The text without comments and without the module of tests that ends it.
fn code_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let begins_tests =
        |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].contains('{');
    let end = lines.windows(2).position(begins_tests).unwrap_or(lines.len());
    let without_comment = |line: &&str| line.find("//").map_or(*line, |at| &line[..at]).to_owned();
    lines[..end].iter().map(without_comment).collect::<Vec<_>>().join("\n")
}
