//! Scenarios' files: all that are built in are good, and what is wrong is said.

use super::*;

#[test]
fn every_built_in_scenario_is_valid_and_takes_10_to_30_seconds() {
    for (name, text) in BUILT_IN {
        let scenario = Scenario::parse(name, text).unwrap();
        assert_eq!(scenario.name, name);
        assert!((10..=30).contains(&scenario.duration.as_secs()), "{name}");
        let inside = |at: Duration| at <= scenario.duration;
        assert!(scenario.acts.iter().all(|act| inside(act.at)), "{name}");
        assert!(scenario.faults.iter().all(|fault| inside(fault.at)), "{name}");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/{name}.toml"));
        assert_eq!(Scenario::find(file.to_str().unwrap()).unwrap().name, name, "by its path too");
    }
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")).unwrap();
    assert_eq!((files.count(), Scenario::all().len()), (BUILT_IN.len(), BUILT_IN.len()));
}

#[test]
fn what_is_wrong_in_a_file_is_said() {
    let error = |more: &str| {
        let text = format!("shows = \"x\"\nduration = \"1s\"\nchanges = 10\n{more}");
        Scenario::parse("mine", &text).unwrap_err().to_string()
    };
    for (more, says) in [
        ("speed = 2", "unknown field `speed`"),
        ("[webhooks]\nlosst = 1", "unknown field `losst`"),
        ("[[faults]]\nkind = \"html\"\nrequests = 1\nevery = \"1s\"", "unknown field `every`"),
        ("[[faults]]\nkind = \"fire\"\nrequests = 1", "unknown variant `fire`"),
        ("[[faults]]\nkind = \"html\"\nrequests = 1001", "requests must be 1 to 1000, not 1001"),
        ("[[faults]]\nkind = \"time_out\"\nrequests = 1\nfor = \"6m\"", "for must be at most 5 minutes"),
        ("[[acts]]\nat = \"soon\"\nconnection = \"acme\"\nstatus = \"online\"", "`soon` is not a duration"),
        ("[existing]\ninvoices = 1", "unknown variant `invoices`"),
        ("[existing]\nassets = 100001", "existing.assets must be 0 to 100000, not 100001"),
        ("[webhooks]\nlost = 60\nlate = 41", "must be 0 to 100, not 101"),
        ("[webhooks]\nduplicated = 101", "webhooks.duplicated (percent) must be 0 to 100, not 101"),
        ("created = 96", "created + deleted (percent) must be 0 to 100, not 101"),
        ("sync_every = \"1ms\"", "sync_every (ms) must be 100 to 3600000, not 1"),
    ] {
        let error = error(more);
        assert!(error.starts_with("scenario mine: ") && error.contains(says), "{more}: {error}");
    }
    let unknown = Scenario::find("calm").unwrap_err().to_string();
    assert_eq!(
        unknown,
        "there is no scenario \"calm\"; `sandbox scenarios` lists them, and a path names a file of your own"
    );
    let missing = Scenario::find("/nowhere/mine.toml").unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/mine.toml: cannot read the scenario: "), "{missing}");
}
