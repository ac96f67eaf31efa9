package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ExtraRole gives a further ClusterRole in one source: to levels of its members, or to the members of a group. It names
// ids, because anybody can make a path that matches; the paths are comments that are checked.
type ExtraRole struct {
	Source      SourceID
	Path        string // of Source when it was written; "" is not checked
	Below       bool   // also in everything below the group Source
	ClusterRole string
	// Levels in Source that get the role; with Group, the levels in that group (none: every member).
	Levels    []Level
	Group     int64
	GroupPath string // of Group when it was written; "" is not checked
}

func (e ExtraRole) check() error {
	var errs []error
	if back, ok := ParseLabel(e.Source.Label()); !ok || back != e.Source {
		errs = append(errs, fmt.Errorf("source %s is not a group, project or user", e.Source))
	}
	if e.Below && e.Source.Kind != GroupSource {
		errs = append(errs, fmt.Errorf("below: there is nothing below %s", e.Source))
	}
	if e.ClusterRole == "" {
		errs = append(errs, errors.New("clusterRole is empty"))
	}
	if e.Group < 0 || (e.Group == 0 && len(e.Levels) == 0) {
		errs = append(errs, errors.New("levels or a group id is needed: who gets the role?"))
	}
	for _, l := range e.Levels {
		if !l.Known() || l <= MinimalAccess {
			errs = append(errs, fmt.Errorf("%s can't be mapped to a role", l))
		}
	}
	return errors.Join(errs...)
}

// covers reports whether the mapping counts in the source.
func (e ExtraRole) covers(s *Snapshot, id SourceID) bool {
	return e.Source == id || (e.Below && s.Within(id, e.Source))
}

// of returns the people to whom the mapping gives its role in a source it covers.
func (e ExtraRole) of(r *Resolver, id SourceID) []standing {
	if e.Group != 0 {
		id = GroupID(e.Group)
	}
	var out []standing
	for _, a := range r.Members(id).list {
		if e.counts(a.level) {
			out = append(out, a)
		}
	}
	return out
}

// counts reports whether the mapping gives its role to a level: in its source, or in its group.
func (e ExtraRole) counts(l Level) bool {
	return slices.Contains(e.Levels, l) || (len(e.Levels) == 0 && l.Known() && l > MinimalAccess)
}

// findings compares the comments of the mapping with GitLab.
func (e ExtraRole) findings(s *Snapshot) []Finding {
	var out []Finding
	check := func(id SourceID, comment string) {
		path, ok := s.Path(id)
		switch {
		case s.Missing[id] != "" || s.MissingAll != "":
		case !ok:
			out = append(out, Finding{"extra_unknown", id, fmt.Sprintf("a mapping to the ClusterRole %q names %s, which is not in GitLab: take it out of authz.extra", e.ClusterRole, id)})
		case comment != "" && !strings.EqualFold(comment, path):
			out = append(out, Finding{"extra_path", id, fmt.Sprintf("a mapping to the ClusterRole %q names %s as %q, GitLab says %q: check that it still is the right one, then correct authz.extra",
				e.ClusterRole, id, clean(comment), clean(path))})
		}
	}
	check(e.Source, e.Path)
	if e.Group != 0 {
		check(GroupID(e.Group), e.GroupPath)
	}
	return out
}

// ExtraGroups returns the groups whose members an extra mapping gives the role in a source, whoever they are.
func (p Policy) ExtraGroups(s *Snapshot, id SourceID, role string) []int64 {
	var out []int64
	for _, e := range p.extra {
		if e.Group != 0 && e.ClusterRole == role && e.covers(s, id) {
			out = append(out, e.Group)
		}
	}
	return out
}
