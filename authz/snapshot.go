package authz

import (
	"iter"
	"time"
)

// UserState is GitLab's state of an account. Only StateActive gives rights; it is an allow-list because
// "deactivated" is not "blocked" in GitLab and new states may come.
type UserState string

// StateActive is the only state in which an account has rights.
const StateActive UserState = "active"

// User is a GitLab account as far as rights are concerned.
type User struct {
	ID        int64
	Username  string // can be renamed and taken by another person: for people to read, never to decide by
	Name      string
	State     UserState
	Human     bool // false for access-token bots, service accounts and GitLab's internal users
	CreatedAt time.Time
}

// Member is one DIRECT membership row of a group or project, with its stored level.
type Member struct {
	User    int64
	Level   Level
	Expires Date // the day from whose start (UTC) the membership no longer counts; zero: never
}

// Link is an invitation of a whole group into a group or project ("sharing").
type Link struct {
	Group   int64 // the invited group
	Level   Level // the highest level its members get through this link
	Expires Date  // as in Member
}

// Group is a group or subgroup with its own rows only.
type Group struct {
	ID                int64
	Parent            int64 // 0 for a top-level group
	Path              string
	CreatedAt         time.Time // zero when the server did not say
	Archived          bool      // itself or an ancestor
	MarkedForDeletion bool      // itself or an ancestor
	ShareLock         bool      // projects directly in this group can't be shared: their links give nothing
	Members           []Member
	Links             []Link
}

// SamePlace reports whether all but the rows is the same.
func (g Group) SamePlace(o Group) bool {
	return g.Parent == o.Parent && g.Path == o.Path && g.Archived == o.Archived && g.MarkedForDeletion == o.MarkedForDeletion &&
		g.ShareLock == o.ShareLock && g.CreatedAt.Equal(o.CreatedAt)
}

// Project is a project with its own rows only.
type Project struct {
	ID                int64
	Group             int64 // the group it is in; 0 for a personal project
	Owner             int64 // the user whose personal namespace it is in; 0 for a project of a group
	Path              string
	CreatedAt         time.Time
	Archived          bool
	MarkedForDeletion bool
	Members           []Member
	Links             []Link

	// Variables are CI/CD variables of the project, without their values; which ones is said where GitLab is read. nil: GitLab
	// did not return them, so nothing may be concluded, not even that there are none. They say nothing about rights, and are
	// not stored. A pointer keeps a Project at 128 bytes: the map of projects is copied with each hook, and larger values are
	// copied one by one (docs/adr/0149).
	Variables *[]CIVariable `json:"-"`
}

// CIVariables returns Variables, and whether GitLab returned them.
func (p Project) CIVariables() (list []CIVariable, read bool) {
	if p.Variables == nil {
		return nil, false
	}
	return *p.Variables, true
}

// SamePlace reports whether all but the rows and the variables is the same.
func (p Project) SamePlace(o Project) bool {
	return p.Group == o.Group && p.Owner == o.Owner && p.Path == o.Path && p.Archived == o.Archived && p.MarkedForDeletion == o.MarkedForDeletion &&
		p.CreatedAt.Equal(o.CreatedAt)
}

// CIVariable is what GitLab tells about a CI/CD variable, never its value.
type CIVariable struct {
	Key, Scope string // Scope is the environment scope
	File       bool   // the job gets the path of a file with the value
	Masked     bool
	Protected  bool // only jobs on protected branches and tags get it
	Raw        bool // references to other variables in the value are not expanded
	Hidden     bool // GitLab shows the value to nobody
	// Marked says that its description is that of this program, and Cluster which cluster's: "" where the version before
	// wrote it, which named none.
	Marked  bool
	Cluster string
	// Delivery is what the mark says was delivered: it changes with the value, and does not give it away. "" where the
	// version before wrote it, which did not say.
	Delivery string
}

// Snapshot is everything that was read from GitLab in one round: rows as GitLab stores them, not rights.
// Nothing in it is changed after it was published.
type Snapshot struct {
	Issuer string // URL of the GitLab instance
	Taken  time.Time
	// Admin is set when GitLab showed that the token which read this is an administrator's. Another one is not shown
	// private groups, so what it does not see may still be there.
	Admin    bool
	Users    map[int64]User
	Groups   map[int64]Group
	Projects map[int64]Project
	// Missing holds the sources that could not be read completely, and why. Unread is not empty: whatever
	// depends on one of them must not be changed in this round. MissingAll is set when a list itself could
	// not be read, so that not even the set of sources is known.
	Missing    map[SourceID]string
	MissingAll string

	From *Derivation `json:"-"` // of another Snapshot; see Derived
}

// Path returns the full path in GitLab of a group or project, and the name of a user; false of what is not in the Snapshot.
func (s *Snapshot) Path(id SourceID) (path string, ok bool) {
	switch id.Kind {
	case GroupSource:
		g, ok := s.Groups[id.ID]
		return g.Path, ok
	case ProjectSource:
		p, ok := s.Projects[id.ID]
		return p.Path, ok
	case UserSource:
		u, ok := s.Users[id.ID]
		return u.Username, ok
	}
	return "", false
}

// Contains reports whether the Snapshot has the source.
func (s *Snapshot) Contains(id SourceID) bool {
	_, ok := s.Path(id)
	return ok
}

// Parent returns what a source is in: the group of a group or project, the user of a personal project, or ok false.
func (s *Snapshot) Parent(id SourceID) (parent SourceID, ok bool) {
	switch id.Kind {
	case GroupSource:
		parent = GroupID(s.Groups[id.ID].Parent)
	case ProjectSource:
		if p := s.Projects[id.ID]; p.Group == 0 && p.Owner != 0 {
			parent = UserID(p.Owner)
		} else {
			parent = GroupID(p.Group)
		}
	case UserSource:
	}
	return parent, parent.ID != 0
}

// maxDepth bounds every walk up the groups: GitLab allows 20 levels, and a wrong answer may go round in a circle.
const maxDepth = 64

// Up goes from a source up to its top-level group, itself included. It ends also where a wrong answer of GitLab goes round in
// a circle.
func (s *Snapshot) Up(id SourceID) iter.Seq[SourceID] {
	return func(yield func(SourceID) bool) {
		for range maxDepth {
			if !yield(id) {
				return
			}
			parent, ok := s.Parent(id)
			if !ok {
				return
			}
			id = parent
		}
	}
}

// Top returns the top-level group a source is in, the user of a personal project, or the source itself.
func (s *Snapshot) Top(id SourceID) (top SourceID) {
	for at := range s.Up(id) {
		top = at
	}
	return top
}

// Within reports whether a source is the other one or somewhere below it.
func (s *Snapshot) Within(id, top SourceID) bool {
	for at := range s.Up(id) {
		if at == top {
			return true
		}
	}
	return false
}

// DemotedToken is why a Snapshot that was not read with an administrator's token can't follow one that was.
const DemotedToken = "the reading token was an administrator's and is not any more, so what it does not see may still be there:" +
	" give its owner the administrator role again, or put another administrator's token into the token file"
