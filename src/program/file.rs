//! The `.nyx` file.
