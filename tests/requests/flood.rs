//! Many refused calls: what is logged of them, and what is counted.

use std::time::Instant;

use countersign::proto::istio::v1::auth::IstioCertificateRequest;
use tokio::runtime::Runtime;

use super::server::{Server, create};
use crate::support::http::{self, loopback};

const CALLS: usize = 500;

#[test]
fn a_flood_of_refused_calls_has_few_lines_and_all_are_counted() {
    let server = Server::start(&[], "");
    let runtime = Runtime::new().unwrap();
    let begun = Instant::now();
    runtime.block_on(async {
        let channel = server.channel(None);
        for _ in 0..CALLS {
            create(channel.clone(), &[], IstioCertificateRequest::default()).await.unwrap_err();
        }
    });
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();

    let metrics = http::get(loopback(server.serve.admin_port), "/metrics").unwrap();
    let counted = format!("countersign_certificate_requests_total{{outcome=\"unauthenticated\"}} {CALLS}\n");
    assert!(metrics.contains(&counted), "no {counted} in\n{metrics}");
    let said = server.said();
    let (shown, hidden): (Vec<_>, Vec<_>) =
        said.lines().filter(|line| line.contains("create_certificate_refused")).partition(|line| line.contains("INFO"));
    assert!((10..=11 + seconds).contains(&shown.len()), "{} lines in {seconds} s", shown.len());
    assert_eq!(shown.len() + hidden.len(), CALLS, "and at level debug all");
}
