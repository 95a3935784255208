//! The whole product on a real node: kubelet, containerd, the real API server and SPIRE, our chart by the real helm,
//! our images. One node serves all scenarios; each has a namespace of its own.
//!
//! ```text
//! export TEST_PEERS=$(testkit/peers/build) TEST_IMAGES=$PWD/target/images
//! deploy/images/build
//! cargo test -p mantlet-testkit --test cluster
//! ```

mod annotations;
mod capture;
mod defaults;
mod edges;
mod impostors;
mod ingress;
mod moving_in;
mod node;
mod probes;
mod stage;
mod stream;
mod trust;
mod upgrade;
mod ways;
mod wear;
mod webhook;
