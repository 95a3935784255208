//! A development agent and a real gRPC client on a real Unix socket.

mod calls;
mod files;
mod rotation;
mod support;
