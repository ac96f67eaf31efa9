package authz

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// SourceKind is the kind of a GitLab object that a namespace can belong to.
type SourceKind string

// The kinds of sources. Their values are the spelling used in configuration, labels and reports.
const (
	GroupSource   SourceKind = "group"
	ProjectSource SourceKind = "project"
	UserSource    SourceKind = "user"
)

// SourceID names one GitLab group, project or user (for a personal namespace) by its immutable number.
type SourceID struct {
	Kind SourceKind
	ID   int64
}

// Group, Project and Person make the SourceID of a group, a project and a user's personal namespace.
func Group(id int64) SourceID   { return SourceID{GroupSource, id} }
func Project(id int64) SourceID { return SourceID{ProjectSource, id} }
func Person(id int64) SourceID  { return SourceID{UserSource, id} }

// String returns the written form, "group/7".
func (s SourceID) String() string { return fmt.Sprintf("%s/%d", s.Kind, s.ID) }

// Label returns the form used as a label value, "group-7".
func (s SourceID) Label() string { return fmt.Sprintf("%s-%d", s.Kind, s.ID) }

// ParseLabel reads the form that Label writes; ok is false for anything else.
func ParseLabel(label string) (s SourceID, ok bool) {
	kind, num, found := strings.Cut(label, "-")
	id, err := strconv.ParseInt(num, 10, 64)
	s = SourceID{SourceKind(kind), id}
	if !found || err != nil || id <= 0 || s.Label() != label {
		return SourceID{}, false
	}
	switch s.Kind {
	case GroupSource, ProjectSource, UserSource:
		return s, true
	}
	return SourceID{}, false
}

// Compare orders sources by kind, then by id.
func (s SourceID) Compare(t SourceID) int {
	if c := strings.Compare(string(s.Kind), string(t.Kind)); c != 0 {
		return c
	}
	switch {
	case s.ID < t.ID:
		return -1
	case s.ID > t.ID:
		return 1
	}
	return 0
}

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

// GitLabGroup is a group or subgroup with its own rows only.
type GitLabGroup struct {
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

// GitLabProject is a project with its own rows only.
type GitLabProject struct {
	ID                int64
	Group             int64 // the group it is in; 0 for a personal project
	Owner             int64 // the user whose personal namespace it is in; 0 for a project of a group
	Path              string
	CreatedAt         time.Time
	Archived          bool
	MarkedForDeletion bool
	Members           []Member
	Links             []Link

	// Variables are CI/CD variables of the project, without their values; which ones is said where GitLab is read.
	// VariablesRead says that GitLab told them: while it is false, nothing may be concluded from Variables, not even
	// that there are none. Neither says anything about rights, and neither is stored.
	Variables     []CIVariable `json:"-"`
	VariablesRead bool         `json:"-"`
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
	Groups   map[int64]GitLabGroup
	Projects map[int64]GitLabProject
	// Missing holds the sources that could not be read completely, and why. Unread is not empty: whatever
	// depends on one of them must not be changed in this round. MissingAll is set when a list itself could
	// not be read, so that not even the set of sources is known.
	Missing    map[SourceID]string
	MissingAll string
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

// Parent returns what a source is in: the group of a group or project, the person of a personal project, or ok false.
func (s *Snapshot) Parent(id SourceID) (parent SourceID, ok bool) {
	switch id.Kind {
	case GroupSource:
		parent = Group(s.Groups[id.ID].Parent)
	case ProjectSource:
		if p := s.Projects[id.ID]; p.Group == 0 && p.Owner != 0 {
			parent = Person(p.Owner)
		} else {
			parent = Group(p.Group)
		}
	case UserSource:
	}
	return parent, parent.ID != 0
}

// Top returns the top-level group a source is in, the person of a personal project, or the source itself.
func (s *Snapshot) Top(id SourceID) SourceID {
	for range maxDepth {
		parent, ok := s.Parent(id)
		if !ok {
			break
		}
		id = parent
	}
	return id
}

// Within reports whether a source is the other one or somewhere below it.
func (s *Snapshot) Within(id, top SourceID) bool {
	for range maxDepth {
		if id == top {
			return true
		}
		parent, ok := s.Parent(id)
		if !ok {
			return false
		}
		id = parent
	}
	return false
}

// DemotedToken is why a Snapshot that was not read with an administrator's token can't follow one that was.
const DemotedToken = "the reading token was an administrator's and is not any more, so what it does not see may still be there:" +
	" give its owner the administrator role again, or put another administrator's token into the token file"

// Date is a calendar day in UTC, the granularity of GitLab's expires_at. The zero Date means "never".
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// ParseDate reads "2026-01-31" and, since GitLab's GraphQL types the column as Time, also an RFC 3339 time.
// The empty string is the zero Date.
func ParseDate(s string) (Date, error) {
	if s == "" {
		return Date{}, nil
	}
	layout := time.DateOnly
	if len(s) > len(time.DateOnly) {
		layout = time.RFC3339
	}
	t, err := time.Parse(layout, s)
	if err != nil {
		return Date{}, fmt.Errorf("reading expiry date %q: want YYYY-MM-DD or RFC 3339", s)
	}
	y, m, d := t.UTC().Date()
	return Date{y, m, d}, nil
}

// IsZero reports whether d is the zero Date, "never".
func (d Date) IsZero() bool { return d == Date{} }

// Start returns the first moment of the day.
func (d Date) Start() time.Time { return time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, time.UTC) }

// Over reports whether a right that expires on d is over at now: access ends at the START of that day (UTC).
func (d Date) Over(now time.Time) bool { return !d.IsZero() && !now.Before(d.Start()) }

// String returns "2026-01-31", or "" for the zero Date.
func (d Date) String() string {
	if d.IsZero() {
		return ""
	}
	return d.Start().Format(time.DateOnly)
}
