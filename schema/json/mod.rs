//! Calls by reflection, as JSON.
