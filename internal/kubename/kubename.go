// Package kubename makes every Kubernetes name that two packages of this program must agree on: the user
// names that authn hands to kube-apiserver and that rbacsync writes into RoleBindings, the names of the
// objects in a managed namespace, and the labels and annotations of our owner mark.
//
// It promises that a name never starts with "system:", that it is built from GitLab ids alone (GitLab names
// can be renamed, freed and taken by another person; ids can't), and that two different ids never share one.
// It decides nothing about rights.
package kubename

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Prefixes and groups of the identities that authn emits.
const (
	// UserPrefix starts the name of every identity that comes from GitLab.
	UserPrefix = "gitlab:"
	// CIPrefix starts the name of the identity of a CI job.
	CIPrefix = "gitlab:ci:"
	// GroupUsers is the Kubernetes group of all people who logged in through GitLab.
	GroupUsers = "gitlab:users"
	// GroupCI is the Kubernetes group of all CI jobs that authenticated with an ID token.
	GroupCI = "gitlab:ci"
	// AgentJobPrefix starts the user name that GitLab's agent impersonates for a CI job; the rest is the job's id.
	AgentJobPrefix = "gitlab:ci_job:"
	// environmentPrefix starts the group that GitLab's agent gives the jobs of one environment of one project.
	environmentPrefix = "gitlab:project_env:"
)

// Names of the objects in a managed namespace.
const (
	// CIServiceAccount is the ServiceAccount whose token CI jobs deploy with.
	CIServiceAccount = "gitlab-serviceaccount"
	// CISecret stores a token of CIServiceAccount for people; the token is bound to it and dies with it.
	CISecret = "gitlab-serviceaccount-token"
	// CIAnchor is the Secret, without a token, that the tokens given to GitLab are bound to.
	CIAnchor = "gitlab-serviceaccount-anchor"
	// CIClusterRole is the ClusterRole that CIServiceAccount is bound to, inside its namespace only.
	CIClusterRole = "gitlab-group-master"
	// CIRoleBinding binds CIServiceAccount to CIClusterRole.
	CIRoleBinding = "gitlab-serviceaccount"
)

// The owner mark: an object that lacks LabelManagedBy=ManagedBy is never changed by this program.
const (
	// Domain is what all labels and annotations of ours begin with.
	Domain = "gl-k8s-integrator.io/"
	// LabelManagedBy and ManagedBy are the owner mark that the tenant fence looks at.
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedBy      = "gl-k8s-integrator"
	// LabelSource names the GitLab object that a namespace belongs to, e.g. "group-7", "project-42", "user-3".
	LabelSource = Domain + "source"
	// AnnotationSource says the same on the same namespace, once more: a label that somebody changes is known by it.
	AnnotationSource = Domain + "source"
	// LabelTemplate marks objects that come from a namespace template; AnnotationTemplate says which, in which form.
	LabelTemplate      = Domain + "template"
	AnnotationTemplate = Domain + "template-hash"
	// AnnotationFormat is on an object of our own namespace the version of what it holds (store.Formats), and on a managed
	// Namespace that of all marks in it (MarkFormat). None is 1.
	AnnotationFormat = Domain + "format"
	// AnnotationIssuer is the URL of the GitLab that the namespace belongs to.
	AnnotationIssuer = Domain + "issuer"
	// AnnotationCreatedAt is GitLab's created_at of the source: ids can be handed out again after a restore.
	AnnotationCreatedAt = Domain + "gitlab-created-at"
	// AnnotationPath is the path of the source in GitLab, for people; nothing decides by it.
	AnnotationPath = Domain + "gitlab-path"
	// AnnotationGoneSince is the RFC 3339 time at which GitLab first said that a namespace's source is gone.
	AnnotationGoneSince = Domain + "gone-since"
	// AnnotationMembers lists the GitLab user names behind the subjects of a binding, for people.
	AnnotationMembers = Domain + "gitlab-usernames"
	// AnnotationLoss is on a binding: when somebody last lost the right to change things in the namespace by it, RFC 3339,
	// and the ids of those who did.
	AnnotationLoss = Domain + "lost"
	// AnnotationRotateAt is the RFC 3339 time from which the CI token is replaced.
	AnnotationRotateAt = Domain + "rotate-at"
	// AnnotationCIReaders is on the Secret of the CI token: the ids of the people who could have read the token since it
	// was issued, comma-separated.
	AnnotationCIReaders = Domain + "ci-readers"
	// AnnotationWithheldSince is on CISecret and CIAnchor: the RFC 3339 time at which somebody last lost the right to read
	// CISecret. While it is there, no token is written into that; an administrator may remove it from both.
	AnnotationWithheldSince = Domain + "token-withheld-since"
	// AnnotationCIProjects is on the same Secret: what each project that deploys into the namespace was given, as JSON.
	AnnotationCIProjects = Domain + "ci-projects"
)

// MarkFormat is the version of the marks that this version reads and writes: labels and annotations of ours on a managed
// namespace and on what is in it. A namespace with a higher one is left alone.
const MarkFormat = 1

// Keys of an identity's extra fields.
const (
	ExtraUsername  = Domain + "gitlab-username"
	ExtraProjectID = Domain + "gitlab-project-id"
	ExtraProject   = Domain + "gitlab-project-path"
	ExtraPipeline  = Domain + "gitlab-pipeline-id"
	ExtraJob       = Domain + "gitlab-job-id"
	ExtraRef       = Domain + "gitlab-ref"
	ExtraEnv       = Domain + "gitlab-environment"
)

// User returns the Kubernetes user name of the GitLab user with that id: "gitlab:42".
func User(id int64) string { return UserPrefix + strconv.FormatInt(id, 10) }

// CIJob returns the Kubernetes user name of a CI job of the GitLab project with that id: "gitlab:ci:42".
func CIJob(project int64) string { return CIPrefix + strconv.FormatInt(project, 10) }

// ParseUser returns the GitLab user id in a name made by User; ok is false for every other string.
func ParseUser(name string) (id int64, ok bool) {
	return parseID(strings.CutPrefix(name, UserPrefix))
}

// ParseCIJob returns the GitLab project id in a name made by CIJob; ok is false for every other string.
func ParseCIJob(name string) (project int64, ok bool) {
	return parseID(strings.CutPrefix(name, CIPrefix))
}

// environmentSlug is GitLab's form of an environment's slug.
var environmentSlug = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,22}[a-z0-9])?$`)

// JobEnvironment returns the group that GitLab's agent gives, by impersonation, to the CI jobs of one environment of one
// project: "gitlab:project_env:42:production". slug is GitLab's name for the environment in such places; ok is false
// when it is not one.
func JobEnvironment(project int64, slug string) (group string, ok bool) {
	return environmentPrefix + strconv.FormatInt(project, 10) + ":" + slug, project > 0 && environmentSlug.MatchString(slug)
}

// ParseJobEnvironment returns project and slug in a name made by JobEnvironment; ok is false for every other string.
func ParseJobEnvironment(group string) (project int64, slug string, ok bool) {
	rest, ok := strings.CutPrefix(group, environmentPrefix)
	id, slug, found := strings.Cut(rest, ":")
	project, valid := parseID(id, ok && found)
	if !valid || !environmentSlug.MatchString(slug) {
		return 0, "", false
	}
	return project, slug, true
}

// ServiceAccountUser returns the user name kube-apiserver gives to CIServiceAccount of a namespace.
func ServiceAccountUser(namespace string) string {
	return "system:serviceaccount:" + namespace + ":" + CIServiceAccount
}

// ParseServiceAccountUser returns the namespace in a name made by ServiceAccountUser.
func ParseServiceAccountUser(name string) (namespace string, ok bool) {
	rest, ok := strings.CutPrefix(name, "system:serviceaccount:")
	if !ok {
		return "", false
	}
	namespace, sa, ok := strings.Cut(rest, ":")
	return namespace, ok && sa == CIServiceAccount && namespace != ""
}

// RoleBinding returns the name of the binding of one ClusterRole in a managed namespace. Shard 0 is
// "gitlab-edit", further shards (many subjects) are "gitlab-edit-1", "gitlab-edit-2", …
func RoleBinding(clusterRole string, shard int) string {
	if shard == 0 {
		return "gitlab-" + clusterRole
	}
	return fmt.Sprintf("gitlab-%s-%d", clusterRole, shard)
}

// parseID accepts exactly the decimal form that strconv.FormatInt writes for a positive number.
func parseID(s string, found bool) (int64, bool) {
	if !found {
		return 0, false
	}
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || id <= 0 || strconv.FormatInt(id, 10) != s {
		return 0, false
	}
	return id, true
}
