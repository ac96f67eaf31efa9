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

// Access is what one person effectively has in one source: the highest level and how it came about.
type Access struct {
	User  int64
	Level Level
	Why   Reason
}

// Grant is a right: these people get a ClusterRole in the namespace of a source.
type Grant struct {
	Source      SourceID
	ClusterRole string
	Users       []int64 // ascending, each once, not empty
}

// compare orders grants by source; rank says in which order the roles of one source come.
func (g Grant) compare(o Grant, rank map[string]int) int {
	return cmp.Or(g.Source.Compare(o.Source), cmp.Compare(rank[g.ClusterRole], rank[o.ClusterRole]))
}

// Finding is something an administrator should know; it never changes what is granted.
type Finding struct {
	Code   string // stable, e.g. "unknown_level"
	Source SourceID
	Text   string
}
