//! Who may call, and what the answers hold.

use mantlet_devagent::{Entry, Selectors};
use mantlet_proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
    X509svidResponse,
};
use tonic::{Code, Request, Status};
use x509_parser::prelude::GeneralName;

use crate::support::{Agent, certificates, channel, domain, id, mine, own_uid, signed, signer, within};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_comes_at_once_and_is_complete() {
    let agent = Agent::start();
    agent.handle.add_entry(mine("spiffe://a.test/ns/shop/sa/web")).unwrap();
    let message = agent.svids().await.unwrap().next().await.unwrap();
    assert_eq!(message.svids.len(), 1);
    let svid = &message.svids[0];
    assert_eq!(svid.spiffe_id, "spiffe://a.test/ns/shop/sa/web");
    assert_eq!(svid.hint, "");
    let chain = certificates(&svid.x509_svid);
    assert_eq!(chain.len(), 1);
    let names = &chain[0].subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(matches!(names.as_slice(), [GeneralName::URI("spiffe://a.test/ns/shop/sa/web")]));
    assert_eq!(signer(&message), Some(0));
    assert_eq!(svid.bundle, agent.handle.bundle(&domain("a.test")));
    assert!(!svid.x509_svid_key.is_empty());
    assert!(message.federated_bundles.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn w01_a_call_without_exactly_one_correct_header_is_refused_before_attestation() {
    // No entry: a server that attested first would say PermissionDenied.
    let agent = Agent::start();
    let header = |values: &[&str]| {
        let mut request = Request::new(X509svidRequest {});
        for value in values {
            request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
        }
        request
    };
    let mut client = agent.client().await;
    for values in [&[][..], &["True"], &["false"], &[""], &["true", "true"], &["true,true"], &[" true,"]] {
        let status = within(client.fetch_x509svid(header(values))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{values:?}");
        assert_eq!(status.message(), "security header missing from request");
    }
    let bundles = Request::new(X509BundlesRequest {});
    assert_eq!(within(client.fetch_x509_bundles(bundles)).await.unwrap_err().code(), Code::InvalidArgument);
    let jwt = Request::new(JwtsvidRequest::default());
    assert_eq!(within(client.fetch_jwtsvid(jwt)).await.unwrap_err().code(), Code::InvalidArgument);
    let good = within(client.fetch_x509svid(header(&["true"]))).await.unwrap_err();
    assert_eq!(good.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_an_entry_is_told_no_identity_issued() {
    let agent = Agent::start();
    agent.handle.add_entry(Entry::for_uid(id("spiffe://a.test/other"), own_uid() + 1)).unwrap();
    let status = agent.svids().await.err().unwrap();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
    let mut client = agent.client().await;
    let status = within(client.fetch_x509_bundles(signed(X509BundlesRequest {}))).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_known_by_uid_gid_pid_and_executable() {
    let agent = Agent::start();
    let own = Selectors {
        uid: Some(own_uid()),
        gid: Some(rustix::process::getgid().as_raw()),
        pid: Some(std::process::id()),
        path: Some(std::env::current_exe().unwrap().canonicalize().unwrap()),
    };
    for wrong in [
        Selectors { uid: Some(own_uid() + 1), ..own.clone() },
        Selectors { gid: Some(4_000_000_000), ..own.clone() },
        Selectors { pid: Some(1), ..own.clone() },
        Selectors { path: Some("/bin/true".into()), ..own.clone() },
    ] {
        let key = agent.handle.add_entry(Entry::new(id("spiffe://a.test/x"), wrong.clone())).unwrap();
        assert_eq!(agent.svids().await.err().unwrap().code(), Code::PermissionDenied, "{wrong:?}");
        assert!(agent.handle.remove_entry(key));
    }
    agent.handle.add_entry(Entry::new(id("spiffe://a.test/x"), own)).unwrap();
    agent.svids().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_identities_keep_the_order_of_their_entries_and_their_hints_stay_unique() {
    let agent = Agent::start();
    for (path, hint) in [("one", Some("internal")), ("two", Some("external")), ("three", Some("internal"))] {
        let mut entry = mine(&format!("spiffe://a.test/{path}"));
        entry.hint = hint.map(str::to_owned);
        agent.handle.add_entry(entry).unwrap();
    }
    agent.handle.add_entry(mine("spiffe://b.test/four")).unwrap();
    let message = agent.svids().await.unwrap().next().await.unwrap();
    let got: Vec<_> = message.svids.iter().map(|s| (s.spiffe_id.as_str(), s.hint.as_str())).collect();
    assert_eq!(
        got,
        [
            ("spiffe://a.test/one", "internal"),
            ("spiffe://a.test/two", "external"),
            ("spiffe://b.test/four", "")
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_bundle_reaches_only_who_federates_with_it() {
    let agent = Agent::start();
    let alone = agent.handle.add_entry(mine("spiffe://a.test/alone")).unwrap();
    let mut stream = agent.svids().await.unwrap();
    assert!(stream.next().await.unwrap().federated_bundles.is_empty());
    let mut entry = mine("spiffe://a.test/federated");
    entry.federates_with = vec![domain("b.test")];
    agent.handle.add_entry(entry).unwrap();
    let message = stream.next().await.unwrap();
    let bundle = message.federated_bundles.get("spiffe://b.test").unwrap();
    assert_eq!(*bundle, agent.handle.bundle(&domain("b.test")));
    assert_ne!(*bundle, message.svids[0].bundle);
    assert_eq!(message.federated_bundles.len(), 1);

    let mut client = agent.client().await;
    let bundles = within(client.fetch_x509_bundles(signed(X509BundlesRequest {}))).await.unwrap();
    let bundles = within(bundles.into_inner().message()).await.unwrap().unwrap().bundles;
    let mut keys: Vec<_> = bundles.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["spiffe://a.test", "spiffe://b.test"]);
    assert!(agent.handle.remove_entry(alone));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_trust_domain_never_stands_among_the_foreign_bundles() {
    let agent = Agent::start();
    let mut entry = mine("spiffe://a.test/x");
    entry.federates_with = vec![domain("b.test")];
    agent.handle.add_entry(entry).unwrap();
    agent.handle.add_entry(mine("spiffe://b.test/y")).unwrap();
    let message = agent.svids().await.unwrap().next().await.unwrap();
    assert_eq!(message.svids.len(), 2);
    assert!(message.federated_bundles.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn jwt_calls_and_unknown_calls_answer_unimplemented() {
    let agent = Agent::start();
    agent.handle.add_entry(mine("spiffe://a.test/x")).unwrap();
    let mut client = agent.client().await;
    let codes = [
        within(client.fetch_jwtsvid(signed(JwtsvidRequest::default()))).await.unwrap_err().code(),
        within(client.fetch_jwt_bundles(signed(JwtBundlesRequest {}))).await.unwrap_err().code(),
        within(client.validate_jwtsvid(signed(ValidateJwtsvidRequest::default()))).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::Unimplemented; 3]);
    for call in ["FetchWITSVID", "FetchWITBundles", "FetchSomethingElse"] {
        assert_eq!(unknown(&agent, call).await.code(), Code::Unimplemented, "{call}");
    }
}

/// The answer to a call that the messages of this workspace do not know.
async fn unknown(agent: &Agent, call: &str) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel(&agent.socket).await);
    within(grpc.ready()).await.unwrap();
    let path = format!("/SpiffeWorkloadAPI/{call}").parse().unwrap();
    // Neither has a field that it needs, so an empty message of another kind is one of theirs.
    let codec = tonic_prost::ProstCodec::<X509svidRequest, X509svidResponse>::default();
    let answer = within(grpc.server_streaming(signed(X509svidRequest {}), path, codec)).await;
    answer.err().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_would_be_for_everybody_or_is_foreign_is_refused() {
    let agent = Agent::start();
    let everybody = Entry::new(id("spiffe://a.test/x"), Selectors::default());
    assert!(agent.handle.add_entry(everybody).unwrap_err().to_string().contains("no selector"));
    let foreign = agent.handle.add_entry(mine("spiffe://c.test/x")).unwrap_err();
    assert!(foreign.to_string().contains("a.test, b.test"), "{foreign}");
    assert!(agent.handle.entries().is_empty());
}
