//! Black box: the rules hold in this checkout.

#[test]
fn tidy() {
    let findings = xtask::tidy::check(&xtask::root()).expect("the rules can be checked");
    let list = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(findings.is_empty(), "{} findings:\n{list}", findings.len());
}
