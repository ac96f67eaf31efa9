// Package gitlabversion says from which version on GitLab has what this program uses. There is one table, which the code
// that talks to GitLab, the simulated GitLab and the docs share. It imports nothing of ours.
package gitlabversion

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
)

// Version is a release of GitLab. The zero Version is one that is not known.
type Version struct{ Major, Minor int }

// Oldest is the oldest GitLab that is supported.
var Oldest = Version{15, 0} //nolint:gochecknoglobals // a constant

var pattern = regexp.MustCompile(`^(\d{1,4})\.(\d{1,4})(?:[.\-+].*)?$`)

// Parse reads a version as GitLab tells it ("17.4.2-ee", "18.0.0-pre"). false: it has another form.
func Parse(text string) (Version, bool) {
	m := pattern.FindStringSubmatch(text)
	if m == nil {
		return Version{}, false
	}
	major, _ := strconv.Atoi(m[1]) // the pattern lets only small numbers through
	minor, _ := strconv.Atoi(m[2])
	return Version{major, minor}, true
}

// String is the version as people write it.
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Before reports whether v is older than o.
func (v Version) Before(o Version) bool {
	return cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor)) < 0
}

// Has reports whether a GitLab of this version has the feature. A version that is not known is taken for the newest.
func (v Version) Has(f Feature) bool { return v == Version{} || !v.Before(f.Since()) }

// Feature is something that GitLab has not always had.
type Feature int

// The features, oldest first.
const (
	VariableRaw Feature = iota
	MetadataEnterprise
	IDTokens
	AgentEnvironments
	VariableDescription
	ProjectDeletionDate
	GroupDeletionDate
	HookName
	AgentProtectedBranches
	VariableHidden
	GroupState
	ProjectDeletion
	GroupDeletion
	ProjectDeletionStates
	ProjectArchived
	HookSigning
)

// Entry is a line of the table.
type Entry struct {
	Since Version
	What  string
	// Without is what is different in a GitLab that lacks it.
	Without string
	// Fields are those of GraphQL types that came with it.
	Fields map[string][]string
	// Arguments are those of GraphQL fields ("Query.projects") that came with it.
	Arguments map[string][]string
}

// Table returns the table, in the order of the constants. Sources: GitLab's documentation of the APIs ("introduced in"); of
// what it gives no release, the first one that is known to have it.
func Table() []Entry {
	return []Entry{
		VariableRaw: {
			Since: Version{15, 3}, What: "CI/CD variables that are not expanded (`raw`)", Fields: map[string][]string{"CiProjectVariable": {"raw"}},
			Without: "`ci.explain` and `ci.kubeconfigToken: variable` do nothing; a `$` in `cluster.publicURL` would be a reference to another variable",
		},
		MetadataEnterprise: {
			Since: Version{15, 6}, What: "the edition in GitLab's metadata (`enterprise`)", Fields: map[string][]string{"Metadata": {"enterprise"}},
			Without: "nothing: it is not asked for",
		},
		IDTokens: {
			Since: Version{15, 7}, What: "ID tokens of CI jobs (`id_tokens`)",
			Without: "delivery `id-token` is refused (finding `ci_gitlab_version`)",
		},
		AgentEnvironments: {
			Since: Version{15, 7}, What: "environments in the agent's `ci_access`",
			Without: "delivery `agent` is refused (finding `ci_gitlab_version`)",
		},
		VariableDescription: {
			Since: Version{16, 2}, What: "descriptions of CI/CD variables", Fields: map[string][]string{"CiProjectVariable": {"description"}},
			Without: "variables carry no mark: ours are known by a digest of what was delivered, kept in the cluster. Another cluster's look like somebody's own (`ci_foreign_variable`)," +
				" `cluster.replaces` does not help with them, and what somebody changes in them by hand is put back at the next delivery only",
		},
		ProjectDeletionDate: {
			Since: Version{16, 10}, What: "when a project is to be deleted, in GraphQL", Fields: map[string][]string{"Project": {"markedForDeletionOn"}},
			Without: "nothing: REST has it",
		},
		GroupDeletionDate: {
			Since: Version{16, 11}, What: "when a group is to be deleted, in GraphQL", Fields: map[string][]string{"Group": {"markedForDeletionOn", "permanentDeletionDate"}},
			Without: "a group that is marked for deletion counts as any other until it is deleted",
		},
		HookName: {
			Since: Version{17, 1}, What: "names of system hooks",
			Without: "`hooks register` knows other integrators' hooks by their path alone, and does not say which cluster they are for",
		},
		AgentProtectedBranches: {
			Since: Version{17, 3}, What: "`protected_branches_only` in the agent's `ci_access`",
			Without: "with delivery `agent`, jobs on unprotected branches get the rights too, unless the environment is protected",
		},
		VariableHidden: {
			Since: Version{17, 4}, What: "hidden CI/CD variables", Fields: map[string][]string{"CiProjectVariable": {"hidden"}},
			Without: "nothing: no variable is hidden",
		},
		GroupState: {
			Since: Version{18, 0}, What: "archived groups and shares of groups in GraphQL",
			Fields:    map[string][]string{"Group": {"archived", "isSelfArchived", "sharedGroups", "sharedProjects"}},
			Arguments: map[string][]string{"Query.projects": {"active", "namespacePath", "notAimedForDeletion"}},
			Without:   "shares of groups are read by REST, one request for each group that may have some",
		},
		ProjectDeletion: {
			Since: Version{18, 1}, What: "projects marked for deletion in GraphQL", Fields: map[string][]string{"Project": {"markedForDeletion"}},
			Without: "nothing: REST has it",
		},
		GroupDeletion: {
			Since: Version{18, 2}, What: "groups marked for deletion in GraphQL",
			Fields:  map[string][]string{"Group": {"markedForDeletion", "isSelfDeletionScheduled", "isSelfDeletionInProgress"}},
			Without: "only the group's own mark is seen, not that of a group above it",
		},
		ProjectDeletionStates: {
			Since: Version{18, 3}, What: "states of a project's deletion in GraphQL", Fields: map[string][]string{"Project": {"isSelfDeletionScheduled", "isSelfDeletionInProgress"}},
			Without: "nothing: they are not asked for",
		},
		ProjectArchived: {
			Since: Version{18, 6}, What: "whether a project itself is archived, in GraphQL", Fields: map[string][]string{"Project": {"isSelfArchived"}},
			Without: "nothing: REST has it",
		},
		HookSigning: {
			Since: Version{19, 0}, What: "signed system hooks",
			Without: "`listeners.hooks.signingKeyFile` can't be used; `secretFile` can",
		},
	}
}

// Since returns the first version that has the feature.
func (f Feature) Since() Version { return Table()[f].Since }
