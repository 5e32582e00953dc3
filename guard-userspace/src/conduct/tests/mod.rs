mod classified;
mod properties;
mod recordings;
