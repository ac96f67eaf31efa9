package authz

import "cmp"

// Reason is one way in which a person got a level in a source: where the membership row is, and through what it
// reaches the source.
type Reason struct {
	Level  Level    // effective level through this way, after the cap of a link
	Row    SourceID // the group or project that holds the membership row
	Via    int64    // the invited group when the way goes through a link, else 0
	Target SourceID // where the link is, when Via is set
}

// compare orders reasons, so that what is chosen among equals does not hang on the order of a map.
func (r Reason) compare(o Reason) int {
	return cmp.Or(cmp.Compare(o.Level, r.Level), r.Row.Compare(o.Row), cmp.Compare(r.Via, o.Via), r.Target.Compare(o.Target))
}

// Access is what one person effectively has in one source: the highest level and how it came about.
type Access struct {
	User  int64
	Level Level
	Why   Reason
}

// Grant is one right: a person gets a ClusterRole in the namespace of a source.
type Grant struct {
	Source      SourceID
	ClusterRole string
	Access
}

// Finding is something an administrator should know; it never changes what is granted.
type Finding struct {
	Code   string // stable, e.g. "unknown_level"
	Source SourceID
	Text   string
}
