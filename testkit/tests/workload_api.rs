//! The scripted Workload API does what a test tells it to, seen by a real gRPC client.

#![allow(clippy::unwrap_used, missing_docs)]

use mantlet_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mantlet_proto::workload::{X509svidRequest, X509svidResponse};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::within;
use mantlet_testkit::workload_api::{Answer, WorkloadApi};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

const ID: &str = "spiffe://td.test/ns/shop/sa/orders";

async fn client(api: &WorkloadApi) -> SpiffeWorkloadApiClient<Channel> {
    let endpoint = Endpoint::from_shared(api.endpoint()).unwrap();
    SpiffeWorkloadApiClient::new(endpoint.connect().await.unwrap())
}

fn request() -> Request<X509svidRequest> {
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn open(api: &WorkloadApi) -> Streaming<X509svidResponse> {
    client(api).await.fetch_x509svid(request()).await.unwrap().into_inner()
}

async fn next_id(stream: &mut Streaming<X509svidResponse>) -> String {
    let message = within("a message", stream.message()).await.unwrap().unwrap();
    message.svids[0].spiffe_id.clone()
}

#[tokio::test]
async fn a_call_without_the_one_header_is_refused_before_anything_else() {
    let api = WorkloadApi::scripted();
    let mut client = client(&api).await;
    let refused = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut wrong = request();
    wrong.metadata_mut().insert("workload.spiffe.io", "True".parse().unwrap());
    assert_eq!(client.fetch_x509svid(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    let mut twice = request();
    twice.metadata_mut().append("workload.spiffe.io", "true".parse().unwrap());
    assert_eq!(client.fetch_x509svid(twice).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(api.calls().len(), 3);
    assert_eq!(api.calls()[2].header, ["true", "true"]);
}

#[tokio::test]
async fn a_served_answer_reaches_open_streams_and_new_ones() {
    let authority = Authority::new("td.test");
    let api = WorkloadApi::serving(Answer::of(&authority.svid(ID)));
    let mut stream = open(&api).await;
    assert_eq!(next_id(&mut stream).await, ID);
    api.serve(Answer::of(&authority.workload("a/b")));
    assert_eq!(next_id(&mut stream).await, "spiffe://td.test/ns/a/sa/b");
    assert_eq!(next_id(&mut open(&api).await).await, "spiffe://td.test/ns/a/sa/b");
    api.refuse(Status::permission_denied("no identity issued"));
    let ended = within("the end", stream.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_script_sends_messages_errors_and_ends_in_the_order_of_the_test() {
    let svid = Authority::new("td.test").svid(ID);
    let api = WorkloadApi::scripted();
    let mut client = client(&api).await;

    let (answered, ()) = tokio::join!(client.fetch_x509svid(request()), async {
        api.next_call().await.fail(Status::unavailable("later"));
    });
    assert_eq!(answered.unwrap_err().code(), Code::Unavailable);

    let (answered, call) = tokio::join!(client.fetch_x509svid(request()), async {
        let call = api.next_call().await;
        call.accept().send(Answer::of(&svid).hint("one")).send(X509svidResponse::default());
        call
    });
    let mut stream = answered.unwrap().into_inner();
    assert_eq!(next_id(&mut stream).await, ID);
    assert_eq!(within("the empty one", stream.message()).await.unwrap().unwrap().svids.len(), 0);
    call.end();
    assert!(within("the end", stream.message()).await.unwrap().is_none());

    let (answered, call) = tokio::join!(client.fetch_x509svid(request()), async {
        let call = api.next_call().await;
        call.accept();
        call
    });
    drop(answered.unwrap());
    call.cancelled().await;
    api.wait_for_calls(3).await;
}

#[tokio::test]
async fn a_stopped_server_cuts_its_streams_and_comes_back_at_the_same_path() {
    let api = WorkloadApi::serving(Answer::of(&Authority::new("td.test").svid(ID)));
    let mut stream = open(&api).await;
    next_id(&mut stream).await;
    api.stop();
    within("the cut", stream.message()).await.unwrap_err();
    assert!(!api.socket().exists());
    api.start();
    assert_eq!(next_id(&mut open(&api).await).await, ID);
}
