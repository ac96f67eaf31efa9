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

// GroupID, ProjectID and UserID make the SourceID of a group, a project and a user's personal namespace.
func GroupID(id int64) SourceID   { return SourceID{GroupSource, id} }
func ProjectID(id int64) SourceID { return SourceID{ProjectSource, id} }
func UserID(id int64) SourceID    { return SourceID{UserSource, id} }

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

// Source is a GitLab object that gets a namespace.
type Source struct {
	ID        SourceID
	Path      string
	CreatedAt time.Time
	// ReadOnly is set when nobody may change anything there: its CI gets no rights either.
	ReadOnly bool
}
