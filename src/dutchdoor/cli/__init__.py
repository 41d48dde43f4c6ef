"""The face: one file a command, each of which parses, calls a room and renders. Holds no logic of its own."""
