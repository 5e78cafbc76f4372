use super::*;

impl Metrics {
    /// The page, whenever.
    pub fn encode(&self) -> String {
        self.page(Timestamp::from_seconds(0))
    }
}

fn line(metrics: &Metrics, start: &str) -> Option<String> {
    metrics.encode().lines().find(|line| line.starts_with(start)).map(str::to_owned)
}

#[test]
fn starts_with_every_outcome_at_zero_and_no_expiry() {
    let page = Metrics::new().encode();
    for outcome in ["issued", "withheld", "unauthenticated", "invalid_argument", "unavailable", "internal"] {
        let line = format!("countersign_certificate_requests_total{{outcome=\"{outcome}\"}} 0\n");
        assert!(page.contains(&line), "{page}");
    }
    assert!(!page.contains("countersign_certificate_expiry_timestamp_seconds{"), "{page}");
    let is_ours = |line: &str| ["#", "countersign_", "citadel_server_"].iter().any(|start| line.starts_with(start));
    assert!(page.lines().all(is_ours), "{page}");
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn counts_and_shows() {
    let metrics = Metrics::new();
    metrics.request_ended(RequestOutcome::Issued);
    metrics.request_ended(RequestOutcome::Issued);
    metrics.forwarded(ForwardOutcome::Failed);
    let stats = Arc::<RenewalStats>::default();
    metrics.follow(ExpiringCertificate::Svid, Arc::clone(&stats));
    metrics.set_role(true, Term::new(7));
    metrics.show_expiry(ExpiringCertificate::Svid, Some(Timestamp::from_seconds(1_800_000_000)));
    for expected in [
        "countersign_certificate_requests_total{outcome=\"issued\"} 2",
        "countersign_forwarded_requests_total{outcome=\"failed\"} 1",
        "countersign_svid_renewals_total{outcome=\"renewed\"} 0",
        "countersign_active 1",
        "countersign_term 7",
        "countersign_certificate_expiry_timestamp_seconds{certificate=\"svid\"} 1800000000",
    ] {
        assert_eq!(line(&metrics, expected).as_deref(), Some(expected));
    }
}

#[test]
fn of_several_identities_none_is_hidden_by_another() {
    let metrics = Metrics::of_agent();
    let stats: [Arc<RenewalStats>; 2] = Default::default();
    metrics.follow(ExpiringCertificate::Svid, Arc::clone(&stats[0]));
    metrics.follow_other("api", Arc::clone(&stats[1]));
    stats[0].renewed(Timestamp::from_seconds(0), Timestamp::from_seconds(1_800_000_000));
    let expiry = "countersign_certificate_expiry_timestamp_seconds";
    let expected = [
        format!("{expiry}{{certificate=\"svid\"}} 1800000000"),
        "countersign_svid_renewals_total{outcome=\"renewed\"} 1".to_owned(),
        "countersign_svid_renewals_total{outcome=\"renewed\",identity=\"api\"} 0".to_owned(),
    ];
    assert_eq!(expected.each_ref().map(|expected| line(&metrics, expected).unwrap_or_default()), expected);
    let other = format!("{expiry}{{certificate=\"svid\",identity=\"api\"}}");
    assert_eq!(line(&metrics, &other), None);
    stats[1].renewed(Timestamp::from_seconds(0), Timestamp::from_seconds(1_700_000_000));
    let shown = format!("{other} 1700000000");
    assert_eq!(line(&metrics, &other).as_ref(), Some(&shown));
    stats[1].withdrawn();
    assert_eq!(line(&metrics, &other).as_ref(), Some(&shown), "that it has ended is not hidden");
}

#[test]
fn a_request_is_held_as_long_as_its_guard_lives() {
    let metrics = Metrics::new();
    let (one, two) = (metrics.hold(), metrics.hold());
    assert_eq!(line(&metrics, "countersign_held_requests ").unwrap(), "countersign_held_requests 2");
    drop((one, two));
    assert_eq!(line(&metrics, "countersign_held_requests ").unwrap(), "countersign_held_requests 0");
}
