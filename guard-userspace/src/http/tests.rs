//! Requests in every form that they can take on their way.

use super::*;
