//! OpenSSL as a judge.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use super::http::loopback;

/// Fails unless `openssl verify` accepts `leaf` for both sides of a connection, by `roots` alone.
pub(crate) fn verify(leaf: &str, above: &str, roots: &str) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("leaf.pem", leaf), ("above.pem", above), ("roots.pem", roots)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    for purpose in ["sslclient", "sslserver"] {
        let mut command = openssl();
        command.args(["verify", "-x509_strict", "-purpose", purpose, "-no-CAfile", "-no-CApath", "-no-CAstore"]);
        command.args(["-trusted", "roots.pem"]);
        if !above.is_empty() {
            command.args(["-untrusted", "above.pem"]);
        }
        let answer = command.arg("leaf.pem").current_dir(folder.path()).output().expect(MISSING);
        let said = String::from_utf8_lossy(&answer.stdout) + String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.success(), "openssl verify -purpose {purpose}: {said}");
    }
}

/// A chain's first certificate, and those after it.
pub(crate) fn split_leaf(chain: &str) -> (&str, &str) {
    chain.split_at(chain.find(END).expect("a PEM certificate") + END.len())
}

/// The certificates of the server on `port`, leaf first, as PEM; anything but a connection that `roots` alone vouch for, with a
/// leaf for `name`, in words.
pub(crate) fn served(port: u16, name: &str, roots: &str) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), roots).unwrap();
    let mut command = openssl();
    command.args(["s_client", "-connect", &loopback(port).to_string(), "-servername", name, "-alpn", "h2"]);
    command.args(["-verify_hostname", name, "-verify_return_error", "-showcerts", "-no-CApath", "-no-CAstore"]);
    let answer = command.arg("-CAfile").arg(file.path()).output().expect(MISSING);
    let (said, errors) = (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    if answer.status.success() && said.contains("Verify return code: 0 (ok)") {
        let blocks = said.split_inclusive(END).filter_map(|text| text.find(BEGIN).map(|begin| &text[begin..]));
        Ok(blocks.collect())
    } else {
        Err(format!("openssl s_client: {}: {said}{errors}", answer.status))
    }
}

/// What is answered to `GET /` over TLS on `port`, by a server that `roots` alone vouch for, with a leaf for `name`: the body; anything
/// but 200 in words.
pub(crate) fn get(port: u16, name: &str, roots: &Path) -> Result<String, String> {
    let mut command = openssl();
    command.args(["s_client", "-quiet", "-connect", &loopback(port).to_string(), "-servername", name]);
    command.args(["-verify_hostname", name, "-verify_return_error", "-no-CApath", "-no-CAstore", "-CAfile"]).arg(roots);
    let (input, output) = (Stdio::piped(), Stdio::piped());
    let mut asking = command.stdin(input).stdout(output).stderr(Stdio::piped()).spawn().expect(MISSING);
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    let mut input = asking.stdin.take().unwrap();
    let written = input.write_all(request.as_bytes());
    let answer = asking.wait_with_output().unwrap();
    // an end of its input would be one of the connection
    drop(input);
    written.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&answer.stdout);
    match said.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(format!("{said}{}", String::from_utf8_lossy(&answer.stderr))),
    }
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----\n";
const END: &str = "-----END CERTIFICATE-----\n";
const MISSING: &str = "the command openssl, which these tests need: install OpenSSL 3";

fn openssl() -> Command {
    let mut command = Command::new("openssl");
    command.stdin(Stdio::null());
    command
}
