package authz

import (
	"fmt"
	"maps"
)

// Untouchable returns the sources whose rights can't be judged in this round, with the reason: those that are Incomplete, and
// where an extra mapping hangs on a group that is. Unread is not empty, so nothing of theirs may be changed.
func (p Policy) Untouchable(s *Snapshot) map[SourceID]string {
	out := s.Incomplete()
	u := incomplete{snap: s, groups: map[int64]string{}}
	for _, e := range p.extra {
		if _, known := s.Groups[e.Group]; e.Group == 0 || (!known && s.Missing[GroupID(e.Group)] == "") {
			continue // a group that is gone from GitLab is a finding, and gives nothing
		}
		why := u.group(e.Group)
		if why == "" {
			continue
		}
		for _, src := range p.Sources(s) {
			if out[src.ID] == "" && e.covers(s, src.ID) {
				out[src.ID] = why
			}
		}
	}
	return out
}

// Incomplete returns the sources whose members are not completely known, with the reason: something that feeds their
// membership was not read.
func (s *Snapshot) Incomplete() map[SourceID]string {
	u := incomplete{snap: s, groups: map[int64]string{}}
	out := map[SourceID]string{}
	note := func(id SourceID, why string) {
		if why == "" {
			why = s.MissingAll
		}
		if why != "" {
			out[id] = why
		}
	}
	for id := range s.Groups {
		note(GroupID(id), u.group(id))
	}
	for id, p := range s.Projects {
		note(ProjectID(id), u.project(p))
	}
	if len(s.Missing) > 0 || s.MissingAll != "" {
		for id := range s.Users {
			note(UserID(id), s.Missing[UserID(id)])
		}
	}
	maps.Copy(out, s.Missing)
	return out
}

// incomplete walks what a source depends on and returns the first thing that is missing.
type incomplete struct {
	snap   *Snapshot
	groups map[int64]string
}

func (u incomplete) group(id int64) string {
	if id == 0 {
		return ""
	}
	if why, ok := u.groups[id]; ok {
		return why
	}
	u.groups[id] = cycle(id)
	why := u.self(id)
	if why == "" {
		why = u.group(u.snap.Groups[id].Parent)
	}
	for _, l := range u.snap.Groups[id].Links {
		if why == "" {
			why = u.self(l.Group)
		}
	}
	u.groups[id] = why
	return why
}

func (u incomplete) project(p Project) string {
	why := u.snap.Missing[ProjectID(p.ID)]
	if why == "" {
		why = u.group(p.Group)
	}
	for _, l := range p.Links {
		if why == "" {
			why = u.group(l.Group)
		}
	}
	return why
}

// cycle is what a group's answer is while its ancestors are walked: who meets it again has come round in a circle.
func cycle(id int64) string {
	return fmt.Sprintf("%s is its own ancestor, which can't be: GitLab's answer is not consistent", GroupID(id))
}

// self says why a group's own rows are unknown. A group that is named but not in the Snapshot is invisible to
// the reading token, which is the same as unread.
func (u incomplete) self(id int64) string {
	if why := u.snap.Missing[GroupID(id)]; why != "" {
		return why
	}
	if _, ok := u.snap.Groups[id]; !ok {
		return fmt.Sprintf("%s is referred to but was not readable: the reading token needs an administrator's view", GroupID(id))
	}
	return ""
}
