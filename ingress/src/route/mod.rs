//! The route table: implements `proxy::route::Router`; pure.
