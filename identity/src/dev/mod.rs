//! The dev authority: an in-process CA served as a real SPIFFE Workload API on unix sockets.
