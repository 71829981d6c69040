//! Replays the kept inputs: what broke once does not break again.

use std::path::Path;

#[test]
fn all_kept_inputs_are_handled() {
    for (name, target) in crisp_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let inputs: Vec<_> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            println!("{}", input.display());
            target(&std::fs::read(input).unwrap());
        }
    }
}
