use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;

use super::*;

fn particulars() -> Particulars {
    Particulars {
        now: Timestamp::from_micros(1_795_348_800_654_321),
        duration: Duration::from_millis(4_500),
        pair_address: "10.1.2.3:15013".parse().ok(),
    }
}

fn id(text: &str) -> HolderId {
    HolderId::parse(text).unwrap()
}

fn record(term: u64, occupancy: Occupancy) -> LeaseRecord {
    LeaseRecord { term: Term::new(term), occupancy }
}

/// An object of version 5 as a hand might have left it.
fn edited(holder: Option<&str>, annotations: &[(&str, &str)]) -> Lease {
    let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Lease {
        metadata: ObjectMeta {
            resource_version: Some("5".into()),
            annotations: Some(annotations.collect()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec { holder_identity: holder.map(str::to_owned), ..LeaseSpec::default() }),
    }
}

fn read(lease: &Lease) -> LeaseRecord {
    let Observed { version, record } = observed(lease).unwrap();
    assert_eq!(version.as_str(), "5");
    record
}

#[test]
fn every_edited_object_is_read_in_the_stricter_way() {
    let held = |term| record(term, Occupancy::Held(id("a")));
    let vacant = |term| record(term, Occupancy::Vacant);
    let released = |term| record(term, Occupancy::Released(id("a")));
    type Row<'a> = (&'a str, Option<&'a str>, &'a [(&'a str, &'a str)], LeaseRecord);
    let rows: &[Row<'_>] = &[
        ("as it is written", Some("a"), &[(TERM, "7")], held(7)),
        ("holder emptied", Some(""), &[(TERM, "7")], vacant(7)),
        ("holder taken out", None, &[(TERM, "7")], vacant(7)),
        ("released", None, &[(TERM, "7"), (RELEASED, "7/a")], released(7)),
        ("released, holder empty", Some(""), &[(TERM, "7"), (RELEASED, "7/a")], released(7)),
        ("released by one with slashes", None, &[(TERM, "7"), (RELEASED, "7/b/c")], {
            record(7, Occupancy::Released(id("b/c")))
        }),
        ("released and held", Some("a"), &[(TERM, "7"), (RELEASED, "7/a")], held(7)),
        ("term edited up", None, &[(TERM, "8"), (RELEASED, "7/a")], vacant(8)),
        ("term edited down", None, &[(TERM, "6"), (RELEASED, "7/a")], vacant(6)),
        ("term taken out", None, &[(RELEASED, "7/a")], vacant(0)),
        ("mark without holder", None, &[(TERM, "7"), (RELEASED, "7/")], vacant(7)),
        ("mark without term", None, &[(TERM, "7"), (RELEASED, "a")], vacant(7)),
        ("mark with another form of the term", None, &[(TERM, "7"), (RELEASED, "07/a")], vacant(7)),
        ("a release of no term", None, &[(TERM, "0"), (RELEASED, "0/a")], vacant(0)),
        ("no number", Some("a"), &[(TERM, "seven")], held(0)),
        ("negative", Some("a"), &[(TERM, "-7")], held(0)),
        ("signed", Some("a"), &[(TERM, "+7")], held(0)),
        ("with a space", Some("a"), &[(TERM, " 7")], held(0)),
        ("no term", Some("a"), &[], held(0)),
        ("the largest", Some("a"), &[(TERM, "4611686018427387904")], held(LARGEST_TERM)),
        ("larger", Some("a"), &[(TERM, "4611686018427387905")], held(0)),
        ("the largest of all", Some("a"), &[(TERM, "18446744073709551615")], held(0)),
        ("beyond", Some("a"), &[(TERM, "99999999999999999999")], held(0)),
        ("larger, released", None, &[(TERM, "4611686018427387905"), (RELEASED, "4611686018427387905/a")], vacant(0)),
    ];
    for (name, holder, annotations, expected) in rows {
        assert_eq!(read(&edited(*holder, annotations)), *expected, "{name}");
    }
}

#[test]
fn an_object_without_anything_is_vacant_and_one_without_version_is_none() {
    let mut lease = Lease::default();
    assert_eq!(observed(&lease), None);
    lease.metadata.resource_version = Some(String::new());
    assert_eq!(observed(&lease), None);
    lease.metadata.resource_version = Some("5".into());
    assert_eq!(read(&lease), record(0, Occupancy::Vacant));
    assert_eq!(holder(&lease), None);
}

#[test]
fn the_holder_is_told_with_the_address_that_it_gives() {
    let mut lease = edited(None, &[]);
    write(&mut lease, &record(7, Occupancy::Held(id("a"))), &particulars());
    let told = |pair_address| Some(LeaseHolder { replica: "a".into(), term: Term::new(7), pair_address });
    assert_eq!(holder(&lease), told(particulars().pair_address));
    let unreadable = edited(Some("a"), &[(TERM, "7"), (PAIR_ADDRESS, "somewhere")]);
    assert_eq!(holder(&unreadable), told(None));
    write(&mut lease, &record(7, Occupancy::Released(id("a"))), &particulars());
    assert_eq!(holder(&lease), None);
}

#[test]
fn people_are_told_since_when_for_how_long_and_how_often() {
    let mut lease = edited(None, &[]);
    let mut spec_after = |term, occupancy, seconds| {
        let particulars = Particulars { now: Timestamp::from_seconds(seconds), ..particulars() };
        write(&mut lease, &record(term, occupancy), &particulars);
        let spec = lease.spec.clone().unwrap();
        let second = |time: Option<MicroTime>| time.map(|time| time.0.as_second());
        assert_eq!(spec.lease_duration_seconds, Some(5), "rounded up");
        (spec.holder_identity, second(spec.acquire_time), second(spec.renew_time), spec.lease_transitions)
    };
    let name = |text: &str| Some(text.to_owned());
    assert_eq!(spec_after(1, Occupancy::Held(id("a")), 10), (name("a"), Some(10), Some(10), Some(0)));
    assert_eq!(spec_after(1, Occupancy::Held(id("a")), 11), (name("a"), Some(10), Some(11), Some(0)));
    assert_eq!(spec_after(2, Occupancy::Held(id("a")), 12), (name("a"), Some(12), Some(12), Some(0)), "another term");
    assert_eq!(spec_after(2, Occupancy::Released(id("a")), 13), (None, Some(12), Some(13), Some(0)));
    assert_eq!(spec_after(3, Occupancy::Held(id("b")), 14), (name("b"), Some(14), Some(14), Some(1)));
}

prop_compose! {
    fn any_record()(term in 1..=LARGEST_TERM, holder in ".{1,60}", kind in 0..3) -> LeaseRecord {
        record(term, match kind {
            0 => Occupancy::Held(id(&holder)),
            1 => Occupancy::Released(id(&holder)),
            _ => Occupancy::Vacant,
        })
    }
}

fn any_term() -> impl Strategy<Value = String> {
    prop_oneof![3 => (0_u64..20).prop_map(|term| term.to_string()), 1 => any::<u64>().prop_map(|term| term.to_string()), 1 => ".{0,22}"]
}

prop_compose! {
    /// Whatever hands and other versions may leave behind.
    fn any_lease()(
        holder in prop::option::of(prop_oneof![Just(String::new()), "[ab]", ".{0,10}"]),
        term in prop::option::of(any_term()),
        released in prop::option::of(prop_oneof![(any_term(), "[ab]?").prop_map(|(term, by)| format!("{term}/{by}")), ".{0,20}"]),
        address in prop::option::of(".{0,20}"),
        spec in any::<bool>(),
    ) -> Lease {
        let annotations = [(TERM, term), (RELEASED, released), (PAIR_ADDRESS, address), ("example.com/other", Some("kept".into()))];
        let annotations: Vec<_> = annotations.iter().filter_map(|(name, it)| Some((*name, it.as_deref()?))).collect();
        let mut lease = edited(holder.as_deref(), &annotations);
        if !spec {
            lease.spec = None;
        }
        lease.metadata.labels = Some(BTreeMap::from([("team".to_owned(), "edge".to_owned())]));
        lease
    }
}

proptest! {
    #[test]
    fn what_is_written_over_any_object_is_read_again_and_the_rest_stays(mut lease in any_lease(), written in any_record()) {
        let before = lease.clone();
        write(&mut lease, &written, &particulars());
        prop_assert_eq!(read(&lease), written);
        prop_assert_eq!(&lease.metadata.labels, &before.metadata.labels);
        prop_assert_eq!(annotation(&lease, "example.com/other"), Some("kept"));
    }

    /// Taking a lease at once needs the mark of its own term and an empty holder; a holder is never overlooked.
    #[test]
    fn nobody_is_taken_to_have_left_without_a_whole_mark(lease in any_lease()) {
        let LeaseRecord { term, occupancy } = read(&lease);
        let named = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty());
        prop_assert!(term.number() <= LARGEST_TERM);
        match occupancy {
            Occupancy::Held(holder) => prop_assert_eq!(Some(holder.as_str().to_owned()), named),
            Occupancy::Vacant => prop_assert_eq!(named, None),
            Occupancy::Released(holder) => {
                prop_assert_eq!(named, None);
                prop_assert!(term > Term::NONE);
                let (written, mark) = (term.to_string(), format!("{term}/{holder}"));
                prop_assert_eq!(annotation(&lease, TERM), Some(written.as_str()));
                prop_assert_eq!(annotation(&lease, RELEASED), Some(mark.as_str()));
            }
        }
    }
}
