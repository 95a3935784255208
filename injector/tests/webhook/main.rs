//! The built `mantlet-injector`, called as an API server calls it: real processes, real HTTPS, a small API server beside
//! them.
#![cfg(feature = "server")]

mod api;
mod bounds;
mod cases;
mod certificates;
mod client;
mod cluster;
mod events;
mod injector;
mod lives;
mod load;
mod operations;
mod pods;
mod scope;
mod stage;
