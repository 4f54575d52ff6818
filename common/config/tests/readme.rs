//! What the README tells to configure is valid.

use zrelay_config::Config;

const README: &str = include_str!("../../../README.md");
const TOUR: &str = include_str!("../../../etc/tour.toml");

/// The TOML examples, in order.
fn examples() -> Vec<&'static str> {
    README.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn every_configuration_in_the_readme_is_valid() {
    assert!(examples().len() >= 2, "the README has examples");
    for (number, example) in examples().into_iter().enumerate() {
        if let Err(error) = Config::parse(&format!("README.md, example {}", number + 1), example) {
            panic!("{error}");
        }
    }
}

#[test]
fn mailman_gets_one_recipient_in_a_transaction() {
    let mailman = examples().into_iter().find(|example| example.contains("lmtp")).expect("the example");
    let config = Config::parse("mailman", mailman).unwrap();
    assert_eq!(config.clause("lmtp/[127.0.0.1]:8024").recipients, 1);
    assert_ne!(config.clause("smtp/example.net").recipients, 1);
}

#[test]
fn the_configuration_of_the_tour_is_valid() {
    assert_eq!(Config::parse("tour.toml", TOUR).unwrap().routes.len(), 1);
}
