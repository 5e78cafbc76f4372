//! The settings as the command line declares them, and `docs/configuration.md` made from that.

use clap::{Arg, ArgAction, Args as _, Command};

use crate::runtime::args;

/// The settings of a subcommand in the order of its help.
pub(super) fn settings(command: &Command, subcommand: &str) -> Vec<Arg> {
    let arguments = command.find_subcommand(subcommand).into_iter().flat_map(Command::get_arguments);
    arguments.filter(|arg| !["config", "help"].contains(&arg.get_id().as_str())).cloned().collect()
}

/// The names of those settings' fields.
pub(super) fn fields(subcommand: &str) -> Vec<String> {
    settings(&args::command(), subcommand).iter().map(|arg| arg.get_id().to_string()).collect()
}

/// Those of them that count in Kubernetes only.
pub(super) fn kubernetes_fields() -> Vec<String> {
    args::KubernetesArgs::augment_args(Command::new("serve"))
        .get_arguments()
        .map(|arg| arg.get_id().to_string())
        .collect()
}

/// Those of them that count with source `istiod` only.
pub(super) fn istiod_fields() -> Vec<String> {
    args::IstiodArgs::augment_args(Command::new("serve")).get_arguments().map(|arg| arg.get_id().to_string()).collect()
}

/// The flag of a field, without its dashes.
pub(super) fn flag(field: &str) -> String {
    of_field(field).and_then(|arg| arg.get_long().map(str::to_owned)).unwrap_or_else(|| field.replace('_', "-"))
}

/// Whether a field takes several values.
pub(super) fn is_list(field: &str) -> bool {
    of_field(field).is_some_and(|arg| matches!(arg.get_action(), ArgAction::Append))
}

fn of_field(field: &str) -> Option<Arg> {
    let command = args::command();
    let mut all = settings(&command, "serve").into_iter().chain(settings(&command, "agent"));
    all.find(|arg| arg.get_id() == field)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::runtime::names;

    const HEAD: &str = "\
# Configuration

`countersign serve` and `countersign agent` take each setting from the first of these that has it: flag, environment
variable, file, default. The file is YAML; `--config FILE` or `COUNTERSIGN_CONFIG` names it. An environment variable that is
empty counts as not set, and lists are written with commas there. A list of one source replaces that of the others.

Everything that is wrong is reported at once, before any port is bound, and the process ends with exit code 64.
`countersign config` takes the flags of `serve` and prints what is in effect, in the form of the file.

`COUNTERSIGN_LOG` filters the log lines: a level such as `info` (the default), or `TARGET=LEVEL` pairs. `NO_COLOR` turns
colours off.
";

    const TOKEN_ISSUERS: &str = "
### Token issuers

Only in the file: the issuers whose JWTs prove a service account to `serve`. `jwksFile` is read once, at the start: after a change
of its keys restart the replicas, one after the other.

```yaml
tokenIssuers:
  - issuer: https://issuer.example        # compared exactly with `iss`
    jwksFile: /etc/countersign/jwks.json  # the issuer's public keys
    audiences: [istio-ca]                 # one of these must stand in `aud`; this is the default
    namespaces: [default]                 # whose service accounts it may vouch for; all if left out
```
";

    const FEDERATION: &str = "
### Federation

Only in the file: other trust domains whose bundles `serve` fetches, beside those that `countersign federation` names
([federation.md](federation.md)). Each has either `url` or `bundleFile`. `bootstrapFile` is read once, at the start; another content of it
replaces what is kept, unless a bundle was fetched since that content was taken up before (to go back to it on purpose, take the entry out of
the configuration, and in again). `bundleFile` is read every 5 s for as long as the replica runs.

```yaml
federation:
  - trustDomain: other.example
    url: https://bundles.other.example:8443/
    endpointSpiffeId: spiffe://other.example/countersign/serving  # profile https_spiffe; if left out, https_web
    bootstrapFile: /etc/countersign/other.example.json            # a SPIFFE bundle or PEM; https_spiffe begins with it
  - trustDomain: cluster.local
    bundleFile: /var/run/secrets/istio/root-cert.pem              # a SPIFFE bundle or PEM that is kept up to date there
```
";

    fn page() -> String {
        let mut page = HEAD.to_owned();
        let command = args::command();
        for subcommand in ["serve", "agent"] {
            write!(page, "\n## {subcommand}\n\n| flag | in the file | environment | meaning |\n|---|---|---|---|\n")
                .unwrap();
            for arg in settings(&command, subcommand) {
                let field = arg.get_id().as_str();
                let value = arg.get_value_names().unwrap_or_default().join(" ");
                let help = arg.get_help().unwrap().to_string();
                let help = help.replace(" [default: ", ". Default: `").replace(']', "`");
                let (file_key, variable) = (names::file_key(field), names::variable(field));
                writeln!(page, "| `--{} {value}` | `{file_key}` | `{variable}` | {help} |", flag(field)).unwrap();
            }
            if subcommand == "serve" {
                page.push_str(TOKEN_ISSUERS);
                page.push_str(FEDERATION);
            }
        }
        page
    }

    /// `UPDATE_DOCS=1` rewrites the page.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test of a file")]
    fn the_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        if std::env::var("UPDATE_DOCS").is_ok_and(|value| value == "1") {
            std::fs::write(path, page()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(found, page(), "docs/configuration.md is stale: run this test with UPDATE_DOCS=1");
    }
}
