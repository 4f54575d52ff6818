//! Sentences about files.

use super::*;

fn complaint(certificate: PathBuf, key: PathBuf) -> String {
    ServerTls::from_pem(&certificate, &key).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn every_mistake_with_the_files_has_its_own_sentence_with_the_file_in_it() {
    let (host, other) = (Host::new(&["mx.example.net"]), Host::new(&["other.example.net"]));
    let file = |name: &str, content: &[u8]| {
        let path = host.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let pem =
        |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes();
    let empty = file("empty", b"");
    let cut = file("cut", b"-----BEGIN CERTIFICATE-----\nMIIB");
    let hollow = file("hollow", &pem("CERTIFICATE", "AAAA"));
    let hollow_key = file("hollow.key", &pem("PRIVATE KEY", "AAAA"));
    let large = file("large", &vec![b'\n'; (1 << 20) + 1]);
    let missing = host.directory.path().join("missing");
    let cases = [
        (complaint(missing.clone(), host.key()), "cannot read ", &missing, "No such file"),
        (complaint(host.certificate(), missing.clone()), "cannot read ", &missing, "No such file"),
        (complaint(large.clone(), host.key()), "cannot read ", &large, "longer than"),
        (complaint(empty.clone(), host.key()), "", &empty, " contains no certificate"),
        (complaint(host.key(), host.key()), "", &host.key(), " contains no certificate"),
        (complaint(cut.clone(), host.key()), "", &cut, " is not a valid PEM file"),
        (complaint(hollow.clone(), host.key()), "the certificate in ", &hollow, " cannot be used"),
        (complaint(host.certificate(), empty.clone()), "", &empty, " contains no private key"),
        (complaint(host.certificate(), host.certificate()), "", &host.certificate(), " contains no private key"),
        (complaint(host.certificate(), hollow_key.clone()), "the private key in ", &hollow_key, " cannot be used"),
        (complaint(host.certificate(), other.key()), "the private key in ", &other.key(), "does not match"),
    ];
    for (text, before, path, after) in cases {
        let start = format!("{before}{}", path.display());
        assert!(text.starts_with(&start) && text.contains(after), "{text}");
    }
}

#[test]
fn one_file_may_hold_both() {
    let host = Host::new(&["mx.example.net"]);
    let both = host.directory.path().join("both.pem");
    let text = [std::fs::read(host.key()).unwrap(), std::fs::read(host.certificate()).unwrap()].concat();
    std::fs::write(&both, text).unwrap();
    let server = ServerTls::from_pem(&both, &both).unwrap();
    assert_eq!(meet(&host.client(), &server, "mx.example.net", Policy::Verify).0.session.verdict(), Ok(()));
}
