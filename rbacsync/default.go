package rbacsync

import "time"

// What holds where nothing else is said. The configuration's defaults are these.
const (
	DefaultInterval    = 5 * time.Minute // between two full rounds
	DefaultConcurrency = 8               // writes to the cluster at the same time
	DefaultDelivery    = DeliverVariables
	DefaultPodSecurity = levelBaseline // of namespaces
	// DefaultTokenLifetime is what is asked for a token of CI jobs; the API server may give less.
	DefaultTokenLifetime = 30 * 24 * time.Hour
	// DefaultHandover is how long what jobs had before a change of delivery still works: as long as GitLab lets them run.
	DefaultHandover = time.Hour
)
