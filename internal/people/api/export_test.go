package api

// The limits that Options have by default, for the documentation.
const (
	DefaultPerSecond  = defaultPerSecond
	DefaultBurst      = defaultBurst
	DefaultAtATime    = defaultAtATime
	DefaultWatches    = defaultWatches
	DefaultOwnWatches = defaultOwnWatches
	DefaultHeartbeat  = defaultHeartbeat
)
