//! What the versions of Istio that run mean: whether sidecars follow a BackendTLSPolicy that was written for a gateway.
//!
//! Before 1.28 istiod reads none, unless its alpha features are on. From 1.28.0 on it makes every sidecar follow it in place of
//! Istio's own mutual TLS, and from 1.30.1 on it passes over those that bear `istio.io/ignore-policy-attachment`, as ours do.

use super::{GatewayApiSafety, IstiodReport, IstiodVersion, ObjectName, Release, SeenIstiod};

/// The first one that has sidecars follow policies of gateways, with all that comes before its release.
const FIRST_UNSAFE: Release = Release { is_final: false, ..Release::new(1, 28, 0) };
/// The first one that can be told not to. Of 1.31 nobody knows from when on until it is released.
const FIRST_SAFE: Release = Release::new(1, 30, 1);
const NEXT_MINOR: Release = Release::new(1, 31, 0);
/// Older ones were never tried.
const OLDEST: Release = Release::new(1, 24, 0);

/// The same beside those that have `left` a short while ago, of whose revision nobody has spoken since: the next one of it is likely to be
/// what the last one was, and reads at its start what was written before.
pub(super) fn safety_beside<'a>(
    istiods: &[SeenIstiod],
    mut left: impl Iterator<Item = &'a IstiodReport>,
) -> GatewayApiSafety {
    match safety(istiods) {
        GatewayApiSafety::Safe if left.any(|report| report.is_unsafe) => GatewayApiSafety::Settling,
        decided @ (GatewayApiSafety::Safe
        | GatewayApiSafety::Unseen { .. }
        | GatewayApiSafety::Elsewhere { .. }
        | GatewayApiSafety::Settling
        | GatewayApiSafety::Unsafe { .. }
        | GatewayApiSafety::Unknown { .. }) => decided,
    }
}

/// What all of them together allow: the one with the lowest version decides, and one that is not known counts as unsafe.
fn safety(istiods: &[SeenIstiod]) -> GatewayApiSafety {
    let concerned = || istiods.iter().filter(|istiod| !istiod.pod.gateway_api_off);
    let known = concerned().filter_map(|istiod| match istiod.version {
        IstiodVersion::Known(version) if follows_policies(version, istiod.pod.alpha_gateway_api) => {
            Some((version, &istiod.object))
        }
        IstiodVersion::Known(_) | IstiodVersion::Asked | IstiodVersion::Silent { .. } => None,
    });
    if let Some((version, pod)) = known.min() {
        return GatewayApiSafety::Unsafe { pod: pod.clone(), version };
    }
    let unknown = concerned().find_map(|istiod| match &istiod.version {
        IstiodVersion::Silent { why } if runs(istiod) => Some((istiod, why)),
        IstiodVersion::Known(_) | IstiodVersion::Asked | IstiodVersion::Silent { .. } => None,
    });
    if let Some((istiod, why)) = unknown {
        let (pod, tag) = (istiod.object.clone(), istiod.pod.tag.clone());
        return GatewayApiSafety::Unknown { pod, why: why.clone(), tag };
    }
    let has_spoken = concerned().any(|istiod| matches!(istiod.version, IstiodVersion::Known(_)));
    // one that does not run yet will read what is written meanwhile; beside others it is one of a roll-out
    let is_awaited =
        |istiod: &SeenIstiod| if runs(istiod) { istiod.version == IstiodVersion::Asked } else { !has_spoken };
    if concerned().any(is_awaited) {
        return GatewayApiSafety::Settling;
    }
    GatewayApiSafety::Safe
}

/// What it means that Istio's namespace has none. `left` were there a short while ago; `elsewhere` is in another namespace and was not
/// asked. `newest_sidecars` are the newest ones of each revision, with their versions as far as they say them.
pub(super) fn safety_without<'a>(
    mut left: impl Iterator<Item = &'a IstiodReport>,
    elsewhere: Option<&ObjectName>,
    newest_sidecars: impl IntoIterator<Item = (&'a str, Option<Release>)>,
) -> GatewayApiSafety {
    // the next one is likely to be what the last one was
    let mut has_left = false;
    let has_unsafe_left = left.any(|report| {
        has_left = true;
        report.is_unsafe
    });
    match elsewhere {
        _ if has_unsafe_left => GatewayApiSafety::Settling,
        Some(pod) => GatewayApiSafety::Elsewhere { pod: pod.clone() },
        None if has_left => GatewayApiSafety::Safe,
        None => safety_by_sidecars(newest_sidecars),
    }
}

/// No sidecar is newer than the istiod that it follows, so its version is the lowest that this one can have.
fn safety_by_sidecars<'a>(newest: impl IntoIterator<Item = (&'a str, Option<Release>)>) -> GatewayApiSafety {
    let is_safe = |version: Release| version >= FIRST_SAFE && !follows_policies(version, false);
    let unsafe_one = newest.into_iter().find(|(_, newest)| !newest.is_some_and(is_safe));
    unsafe_one.map_or(GatewayApiSafety::Safe, |(revision, newest)| GatewayApiSafety::Unseen {
        revision: revision.into(),
        newest,
    })
}

impl SeenIstiod {
    /// Whether it counts as unsafe by itself; `None` while that is not decided.
    pub fn is_unsafe(&self) -> Option<bool> {
        let safety = safety(std::slice::from_ref(self));
        (safety != GatewayApiSafety::Settling).then(|| safety.must_remove())
    }
}

/// The lowest version that is too old to be spoken for.
pub(super) fn too_old(istiods: &[SeenIstiod]) -> Option<(ObjectName, Release)> {
    let known = istiods.iter().filter_map(|istiod| match istiod.version {
        IstiodVersion::Known(version) if version < OLDEST => Some((version, &istiod.object)),
        IstiodVersion::Known(_) | IstiodVersion::Asked | IstiodVersion::Silent { .. } => None,
    });
    known.min().map(|(version, pod)| (pod.clone(), version))
}

fn follows_policies(version: Release, alpha: bool) -> bool {
    let is_early = !version.is_final && (version.major, version.minor) == (NEXT_MINOR.major, NEXT_MINOR.minor);
    (FIRST_UNSAFE..FIRST_SAFE).contains(&version) || is_early || (alpha && version < FIRST_UNSAFE)
}

/// One that does not run yet watches nothing; once it has been heard of, what it said counts while its container is away.
const fn runs(istiod: &SeenIstiod) -> bool {
    istiod.pod.place.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::IstiodPod;

    /// `VERSION`, `?` (asked), `!` (silent); then `off`, `alpha`, `down` (does not run), `canary` (of another revision).
    fn istiod(number: usize, text: &str) -> SeenIstiod {
        let mut words = text.split(' ');
        let version = match words.next().unwrap() {
            "?" => IstiodVersion::Asked,
            "!" => IstiodVersion::Silent { why: "it hangs".into() },
            version => IstiodVersion::Known(version.parse().unwrap()),
        };
        let words: Vec<_> = words.collect();
        let is = |word| words.contains(&word);
        let pod = IstiodPod {
            place: (!is("down")).then(|| "10.0.0.1:15014".parse().unwrap()),
            tag: Some("1.30.1".into()),
            gateway_api_off: is("off"),
            alpha_gateway_api: is("alpha"),
            ..IstiodPod::default()
        };
        SeenIstiod {
            object: ObjectName::new("istio-system", &number.to_string()),
            uid: "u".into(),
            revision: if is("canary") { "canary".into() } else { "r".into() },
            pod,
            version,
        }
    }

    fn of(text: &str) -> Vec<SeenIstiod> {
        let each = text.split(", ").filter(|each| !each.is_empty());
        each.enumerate().map(|(number, each)| istiod(number, each)).collect()
    }

    #[test]
    fn each_set_of_istiods_allows_what_it_should() {
        for (istiods, expected) in [
            ("", "safe"),
            ("1.24.0", "safe"),
            ("1.27.9", "safe"),
            ("1.23.6", "safe"),
            ("1.28-dev", "unsafe 0"),
            ("1.28.0-alpha.1", "unsafe 0"),
            ("1.28.0", "unsafe 0"),
            ("1.29.4", "unsafe 0"),
            ("1.30.0", "unsafe 0"),
            ("1.30.1-rc.0", "unsafe 0"),
            ("1.30.1", "safe"),
            ("1.31.0-alpha.0", "unsafe 0"),
            ("1.31.0", "safe"),
            ("1.32-dev", "safe"),
            ("2.0.0", "safe"),
            ("1.27.0 alpha", "unsafe 0"),
            ("1.30.1 alpha", "safe"),
            ("1.29.0 off", "safe"),
            ("1.27.0 alpha off", "safe"),
            ("! off", "safe"),
            ("? off", "safe"),
            ("?", "settling"),
            ("!", "unknown 0"),
            ("? down", "settling"),
            ("! down", "settling"),
            ("? down, ? down", "settling"),
            ("? down off", "safe"),
            ("1.31.0 off, ? down", "settling"),
            ("1.31.0 down, ? down", "safe"),
            ("1.29.0 down", "unsafe 0"),
            ("1.30.1, 1.29.0", "unsafe 1"),
            ("1.29.0, 1.28.1", "unsafe 1"),
            ("1.29.0, 1.28.1 off", "unsafe 0"),
            ("1.29.0 off, 1.30.1", "safe"),
            ("1.31.0, ?", "settling"),
            ("?, !", "unknown 1"),
            ("!, 1.29.0, ?", "unsafe 1"),
            ("1.31.0, ? down", "safe"),
            ("1.31.0 canary, 1.29.0", "unsafe 1"),
            ("1.29.0, 1.31.0 canary", "unsafe 0"),
            ("1.27.0, 1.30.0 canary", "unsafe 1"),
            ("1.31.0, ! canary", "unknown 1"),
            ("1.31.0, ? canary", "settling"),
            ("1.31.0, 1.30.1 canary", "safe"),
        ] {
            let found = match safety(&of(istiods)) {
                GatewayApiSafety::Safe => "safe".to_owned(),
                GatewayApiSafety::Settling => "settling".to_owned(),
                GatewayApiSafety::Unsafe { pod, .. } => format!("unsafe {}", pod.name),
                GatewayApiSafety::Unknown { pod, why, tag } => {
                    assert_eq!((&*why, tag.as_deref()), ("it hangs", Some("1.30.1")));
                    format!("unknown {}", pod.name)
                }
                GatewayApiSafety::Elsewhere { .. } => "elsewhere".to_owned(),
                GatewayApiSafety::Unseen { .. } => "unseen".to_owned(),
            };
            assert_eq!(found, expected, "{istiods:?}");
        }
    }

    fn letters_left(letters: &str) -> Vec<IstiodReport> {
        let report = |letter: char| IstiodReport {
            uid: letter.to_string().into(),
            version: IstiodVersion::Asked,
            is_unsafe: letter == 'u',
        };
        letters.chars().map(report).collect()
    }

    #[test]
    fn an_unsafe_one_that_has_left_holds_back_what_the_others_would_allow() {
        for (istiods, letters, expected) in [
            ("1.31.0", "", "Safe"),
            ("1.31.0", "s", "Safe"),
            ("1.31.0", "u", "Settling"),
            ("1.31.0, ? down", "u", "Settling"),
            ("1.31.0, ? down", "", "Safe"),
            ("1.29.0", "u", "Unsafe"),
            ("!", "u", "Unknown"),
        ] {
            let found = format!("{:?}", safety_beside(&of(istiods), letters_left(letters).iter()));
            assert!(found.starts_with(expected), "{istiods:?} beside {letters:?}: {found}");
        }
    }

    /// Of those that have left a `u` is unsafe, an `s` safe.
    #[test]
    fn without_any_it_counts_what_the_last_one_was_and_whether_one_is_elsewhere() {
        let there = ObjectName::new("aks-istio-system", "istiod-0");
        for (left, is_elsewhere, expected) in [
            ("", false, "Safe"),
            ("s", false, "Safe"),
            ("u", false, "Settling"),
            ("su", false, "Settling"),
            ("", true, "Elsewhere"),
            ("s", true, "Elsewhere"),
            ("u", true, "Settling"),
        ] {
            let left = letters_left(left);
            for sidecars in [vec![], vec![("r", Some(FIRST_SAFE))]] {
                let found = safety_without(left.iter(), is_elsewhere.then_some(&there), sidecars);
                assert!(format!("{found:?}").starts_with(expected), "{left:?} {is_elsewhere}: {found:?}");
                assert!(!found.must_remove(), "{found:?}");
            }
        }
    }

    /// Of revision and version, `?` where it is not said.
    #[test]
    fn of_an_istiod_that_is_not_seen_sidecars_say_the_lowest_version() {
        for (left, sidecars, expected) in [
            ("", "", "Safe"),
            ("", "r 1.30.1", "Safe"),
            ("", "r 1.31.0", "Safe"),
            ("", "r 1.31.0, s 1.32.2", "Safe"),
            ("", "r 1.30.0", "Unseen r 1.30.0"),
            ("", "r 1.27.0", "Unseen r 1.27.0"),
            ("", "r 1.31.0-alpha.1", "Unseen r 1.31.0-pre"),
            ("", "r ?", "Unseen r ?"),
            ("", "r 1.31.0, s 1.24.0", "Unseen s 1.24.0"),
            ("", "r 1.31.0, s ?", "Unseen s ?"),
            ("s", "r 1.27.0", "Safe"),
            ("u", "r 1.31.0", "Settling"),
        ] {
            let left = letters_left(left);
            let newest = sidecars.split(", ").filter_map(|one| one.split_once(' '));
            let newest = newest.map(|(revision, version)| (revision, version.parse().ok()));
            let found = safety_without(left.iter(), None, newest);
            let found = if let GatewayApiSafety::Unseen { revision, newest } = found {
                format!("Unseen {revision} {}", newest.map_or("?".into(), |version| version.to_string()))
            } else {
                format!("{found:?}")
            };
            assert_eq!(found, expected, "{sidecars}");
        }
    }

    #[test]
    fn the_oldest_of_those_that_are_too_old_is_named() {
        assert_eq!(too_old(&of("1.24.0, ?, !")), None);
        let (pod, version) = too_old(&of("1.31.0, 1.23.6, 1.22.1")).unwrap();
        assert_eq!((&*pod.name, version), ("2", Release::new(1, 22, 1)));
    }

    #[test]
    fn only_safety_allows_writing_and_only_danger_removes() {
        let all = ["", "?", "1.29.0", "!"].map(|istiods| safety(&of(istiods)));
        assert_eq!(all.each_ref().map(GatewayApiSafety::may_write), [true, false, false, false]);
        assert_eq!(all.each_ref().map(GatewayApiSafety::must_remove), [false, false, true, true]);
        let pod = ObjectName::new("team", "istiod");
        for unseen in [safety_by_sidecars([("r", None)]), GatewayApiSafety::Elsewhere { pod }] {
            assert!(!unseen.may_write() && !unseen.must_remove(), "{unseen:?}");
        }
    }
}
