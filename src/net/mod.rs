//! The network side: names, sockets, the protocol. It has never heard of a tower layer.

pub(crate) mod address;
pub(crate) mod dns;
pub(crate) mod link;
pub(crate) mod reach;
