//! Compile: documents to a plan and a report; pure.
