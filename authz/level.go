package authz

import (
	"fmt"
	"strings"
)

// Level is a GitLab access level. Levels are compared as numbers only to find the highest of several; what a
// level may do is decided by explicit sets, because 15 and 25 are not cumulative with their neighbours and
// GitLab adds levels (source: GitLab's members API documentation).
type Level int

// GitLab's access levels. Maintainer was called Master before GitLab 11.
const (
	NoAccess        Level = 0
	MinimalAccess   Level = 5
	Guest           Level = 10
	Planner         Level = 15
	Reporter        Level = 20
	SecurityManager Level = 25
	Developer       Level = 30
	Maintainer      Level = 40
	Owner           Level = 50
)

// levelNames holds GitLab's name of each level at its number, and "" where there is no level: plans of a large GitLab look a
// million times.
var levelNames = [...]string{
	NoAccess: "No access", MinimalAccess: "Minimal access", Guest: "Guest", Planner: "Planner", Reporter: "Reporter",
	SecurityManager: "Security Manager", Developer: "Developer", Maintainer: "Maintainer", Owner: "Owner",
}

// String returns GitLab's name of the level, or "level 35" for one this program does not know.
func (l Level) String() string {
	if l.Known() {
		return levelNames[l]
	}
	return fmt.Sprintf("level %d", int(l))
}

// Known reports whether l is one of GitLab's documented levels.
func (l Level) Known() bool { return 0 <= l && int(l) < len(levelNames) && levelNames[l] != "" }

// allLevels are GitLab's documented levels, ascending.
func allLevels() (all []Level) {
	for l := range Level(len(levelNames)) {
		if l.Known() {
			all = append(all, l)
		}
	}
	return all
}

// ParseLevel reads a level's name in any case, with spaces, "-" or "_" between words; "master" is Maintainer.
func ParseLevel(s string) (Level, error) {
	norm := strings.NewReplacer(" ", "", "-", "", "_", "").Replace(strings.ToLower(s))
	if norm == "master" {
		return Maintainer, nil
	}
	for _, l := range allLevels() {
		if strings.ToLower(strings.ReplaceAll(levelNames[l], " ", "")) == norm {
			return l, nil
		}
	}
	return 0, fmt.Errorf("unknown GitLab access level %q: want guest, planner, reporter, developer, maintainer or owner", s)
}
