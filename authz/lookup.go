package authz

import "time"

// Lookup answers who effectively is a member of what, like Members, and keeps what many sources share.
// It is not safe for concurrent use.
type Lookup struct{ r *resolver }

// NewLookup returns a Lookup of one Snapshot at one moment. At the zero time nothing has expired.
func NewLookup(s *Snapshot, now time.Time) Lookup { return Lookup{newResolver(s, now)} }

// Of returns the effective members of a source.
func (l Lookup) Of(id SourceID) Standings { return Standings{l.r.of(id)} }
