//! Frames between the dispatcher and the agent.
