//! The documented sample and the defaults in the code say the same.

use std::path::Path;

use zrelay_config::{Clause, Config, Pattern, Rates};

fn sample() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../etc/zrelay.toml")).unwrap()
}

/// The sample with every setting uncommented.
fn uncommented() -> String {
    let lines = sample();
    let settings = lines.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_alphabetic() || c == '[') => setting,
        _ => line,
    });
    settings.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_sample_as_it_is_shipped_is_the_embedded_default() {
    let shipped = Config::parse("zrelay.toml", &sample()).unwrap();
    assert_eq!(format!("{shipped:?}"), format!("{:?}", Config::embedded()));
}

#[test]
fn every_setting_shown_in_the_sample_is_the_default() {
    let mut shown = Config::parse("zrelay.toml", &uncommented()).unwrap();
    assert_eq!(shown.hostname, "hub.example.org");
    assert_eq!(shown.postmaster.as_deref(), Some("postmaster@example.org"));
    assert_eq!((shown.routes.len(), shown.clauses.len()), (1, 2));
    let Clause { source, matches, .. } = shown.clauses[0].as_ref();
    assert!(source.is_some());
    assert_eq!(*matches, "*".parse::<Pattern>().unwrap());
    assert!(shown.clauses[0].ring_rates.messages.is_some() && shown.clauses[0].clause_rates.bytes.is_some());
    assert_eq!((shown.clauses[0].replies.len(), shown.sources.len()), (1, 1));
    for clause in &shown.clauses {
        let example = Clause {
            source: None,
            matches: Clause::default().matches,
            ring_rates: Rates::default(),
            clause_rates: Rates::default(),
            replies: Vec::new(),
            ..Clause::clone(clause)
        };
        assert_eq!(example, Clause::default());
    }
    assert_eq!(shown.channel_agents, [("smtp".to_owned(), shown.agents)]);

    // What has no fixed default is an example in the sample; the rest must be equal to the letter.
    let embedded = Config::embedded();
    shown.hostname.clone_from(&embedded.hostname);
    shown.postmaster = None;
    shown.tls = None;
    shown.intake.flow_header = None;
    shown.listen.iter_mut().for_each(|listen| listen.tag = None);
    shown.routes.clear();
    shown.clauses.clear();
    shown.sources.clear();
    shown.channel_agents.clear();
    assert_eq!(format!("{shown:?}"), format!("{embedded:?}"));
}

#[test]
fn every_key_that_exists_is_in_the_sample() {
    let text = uncommented();
    for table in
        ["", "[[listen]]", "[tls]", "[intake]", "[queue]", "[[route]]", "[[thread]]", "[[source]]", "[dns]", "[loops]"]
    {
        let error = Config::parse("probe", &format!("{table}\nno-such-key = 1\n")).unwrap_err();
        let expected = error.problems()[0].help.clone().unwrap();
        let keys: Vec<&str> = if table.is_empty() {
            expected.trim_start_matches("expected one of ").split(", ").collect()
        } else {
            expected.split('`').skip(1).step_by(2).collect()
        };
        assert!(!keys.is_empty(), "{expected}");
        for key in keys {
            let shown = text.lines().any(|line| {
                line.starts_with(&format!("{key} ="))
                    || line == format!("[{key}]")
                    || line == format!("[[{key}]]")
                    || line.ends_with(&format!(".{key}]]"))
            });
            assert!(shown, "{table} {key} is not in etc/zrelay.toml");
        }
    }
}
