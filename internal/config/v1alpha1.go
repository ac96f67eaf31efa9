// Package config reads the program's one configuration file. It is strict: a key it does not know, a key in the
// wrong case or written twice, and a value that can't be used are errors, and all faults are reported at once with
// their paths. Secrets are never in the file, only the paths of files that hold them.
package config

import (
	"fmt"
	"time"
)

// APIVersion and Kind head every configuration file.
const (
	APIVersion = apiGroup + "v1alpha1"
	Kind       = "Config"
)

const apiGroup = "gl-k8s-integrator/"

// Config is the whole file. Every field's comment is its documentation in docs/configuration.md.
type Config struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	GitLab     GitLab    `json:"gitlab"`
	Cluster    Cluster   `json:"cluster,omitzero"`
	Listeners  Listeners `json:"listeners,omitzero"`
	Authn      Authn     `json:"authn"`
	Authz      Authz     `json:"authz,omitzero"`
	RBACSync   RBACSync  `json:"rbacsync,omitzero"`
	CI         CI        `json:"ci,omitzero"`
	Web        Web       `json:"web,omitzero"`
	History    History   `json:"history,omitzero"`
}

// GitLab says where GitLab is and how to reach it.
type GitLab struct {
	// URL of GitLab, exactly as GitLab writes it into its tokens as issuer (no slash at the end).
	URL string `json:"url"`
	// PEM file with the CA of GitLab's certificate. Empty: the system's. Read again when it changes.
	CAFile string `json:"caFile,omitempty"`
	// File with an access token of an administrator, scope read_api. Read again when it changes.
	ReadTokenFile string `json:"readTokenFile"`
	// File with an access token, scope api, that may write project variables. Needed for every ci.delivery but none. Read again when it changes.
	WriteTokenFile string `json:"writeTokenFile,omitempty"`
	// How many groups and projects, chosen by chance, are compared with GitLab's own lists of members after each full
	// reading. Negative: none. Default 20.
	SampleSize int `json:"sampleSize,omitempty"`
}

// Cluster says which cluster rights are written to.
type Cluster struct {
	// Kubeconfig file for reaching kube-apiserver. Empty: the pod's own ServiceAccount. Read at the start only; client
	// certificates and tokens that it names as files are read again when these change.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// Short name of the cluster for people: all names in the kubeconfig that they get begin with it. Different for each cluster.
	// Empty: host of publicURL, with its port unless that is 6443.
	Name string `json:"name,omitempty"`
	// URL of kube-apiserver as CI jobs and laptops reach it. Empty: the one of the kubeconfig.
	PublicURL string `json:"publicURL,omitempty"`
	// PEM file with the CA of that URL. Empty: the one of the kubeconfig. Read again when it changes.
	PublicCAFile string `json:"publicCAFile,omitempty"`
	// Ids of clusters that are no more and whose place this one takes: what names them in GitLab (CI variables, cluster
	// integrations, system hooks) becomes this cluster's. The finding ci_other_cluster tells the id. The word "unnamed" stands
	// for what the version before wrote, which named no cluster.
	Replaces []string `json:"replaces,omitempty"`
}

// Listeners are the ports of `serve`.
type Listeners struct {
	// TokenReview and SubjectAccessReview, for kube-apiserver alone.
	Webhooks Listener `json:"webhooks,omitzero"`
	// System hooks, for GitLab alone.
	Hooks HooksListener `json:"hooks,omitzero"`
	// Metrics and health (/metrics, /healthz, /readyz).
	Metrics MetricsListener `json:"metrics,omitzero"`
	// The page for people (web) and the API for their tools (/api/v1). Without web.clientID the API alone.
	Web WebListener `json:"web,omitzero"`
	// How long all of them serve on after SIGTERM, with /readyz false, so that who calls them notices before they close. 1ms to
	// 1m. A second signal ends the process at once. Default 5s.
	DrainDelay Duration `json:"drainDelay,omitzero"`
}

// Listener is a TLS port.
type Listener struct {
	// Address to listen on, host:port.
	Address string `json:"address"`
	// PEM file with the certificate. Read again when it changes.
	CertFile string `json:"certFile"`
	// PEM file with the certificate's key. Read again when it changes.
	KeyFile string `json:"keyFile"`
	// PEM file with the CA whose client certificates are demanded. May be empty only on a loopback address. Read again when it changes.
	ClientCAFile string `json:"clientCAFile,omitempty"`
	// Requests answered at the same time, for logins and for refusals each; what is over is answered 503 at once instead of waiting. Default 256.
	MaxInFlight int `json:"maxInFlight,omitempty"`
}

// HooksListener is the port that GitLab's system hooks arrive at.
type HooksListener struct {
	// Address to listen on, host:port. Empty: no hooks, periodic rounds only.
	Address string `json:"address,omitempty"`
	// PEM file with the certificate. Empty: plain HTTP, allowed on a loopback address only. Read again when it changes.
	CertFile string `json:"certFile,omitempty"`
	// PEM file with the certificate's key. Read again when it changes.
	KeyFile string `json:"keyFile,omitempty"`
	// File with the secret token of the system hook. Read again when it changes.
	SecretFile string `json:"secretFile,omitempty"`
	// File with the signing token of the system hook ("whsec_…", GitLab 19). With it, a hook that carries a signature
	// must have a right one. At least one of the two files is needed. Read again when it changes.
	SigningKeyFile string `json:"signingKeyFile,omitempty"`
}

// MetricsListener is the port of metrics and health.
type MetricsListener struct {
	// Address to listen on, host:port. Empty: none.
	Address string `json:"address,omitempty"`
	// PEM file with the certificate. Empty: plain HTTP. Read again when it changes.
	CertFile string `json:"certFile,omitempty"`
	// PEM file with the certificate's key. Read again when it changes.
	KeyFile string `json:"keyFile,omitempty"`
	// File with a token that /metrics demands (Authorization: Bearer); health needs none. Empty: everybody who reaches the port may
	// read metrics. Read again when it changes.
	TokenFile string `json:"tokenFile,omitempty"`
}

// WebListener is the port that people reach with browsers and tools.
type WebListener struct {
	// Address to listen on, host:port. Empty: neither page nor API.
	Address string `json:"address,omitempty"`
	// PEM file with the certificate. Empty: plain HTTP, allowed on a loopback address only. Read again when it changes.
	CertFile string `json:"certFile,omitempty"`
	// PEM file with the certificate's key. Read again when it changes.
	KeyFile string `json:"keyFile,omitempty"`
}

// Authn says whose tokens are accepted.
type Authn struct {
	// Tokens are not judged here: /authenticate is not served. kube-apiserver judges them by itself, as docs/login.md says.
	Disabled bool `json:"disabled,omitempty"`
	// Application ids (OAuth client ids) whose ID tokens are accepted, as kubelogin uses them.
	ClientIDs []string `json:"clientIDs"`
	// How much clocks may differ. Default 10s.
	Leeway Duration `json:"leeway,omitzero"`
	// How often the signing keys are fetched again, so that a withdrawn key dies. Default 5m.
	KeyRefresh Duration `json:"keyRefresh,omitzero"`
	// How long the last known keys are used while GitLab can't be reached. Default 24h.
	KeyMaxAge Duration `json:"keyMaxAge,omitzero"`
	// Where the signing keys come from instead of GitLab's discovery document.
	Keys AuthnKeys `json:"keys,omitzero"`
	// Largest accepted token. A person in very many groups has a large one; kube-apiserver reads up to 1 MiB of headers,
	// a balancer in front of it often less. Default 65536.
	MaxTokenBytes int `json:"maxTokenBytes,omitempty"`
	// The API audiences that reviews may ask for, as in kube-apiserver's --api-audiences. Empty: status.audiences
	// stays empty, which kube-apiserver takes as its own.
	APIAudiences []string `json:"apiAudiences,omitempty"`
	// Conditions on people beside a valid token; who meets one of them is let in. Absent: every person with an
	// account in GitLab is authenticated (and has no rights but what RoleBindings give). With a condition nobody is let in before the
	// first complete reading of GitLab.
	Require AuthnRequire `json:"require,omitzero"`
	// Acceptance of CI job ID tokens, of projects with delivery id-token (ci). Absent: they are refused.
	CI *AuthnCI `json:"ci,omitempty"`
}

// AuthnKeys says where the signing keys are read. At most one of the two may be given.
type AuthnKeys struct {
	// URL of the keys (JWKS), where GitLab is read through another host name than its external URL.
	URL string `json:"url,omitempty"`
	// File with the keys (JWKS). Read again every keyRefresh.
	File string `json:"file,omitempty"`
}

// AuthnRequire limits who is authenticated at all.
type AuthnRequire struct {
	// Whoever has at least one right by authz.roles somewhere.
	MappedRight bool `json:"mappedRight,omitempty"`
	// Ids of groups whose members, inherited and invited ones too, are let in.
	Groups []int64 `json:"groups,omitempty"`
}

// AuthnCI says which CI job ID tokens are accepted.
type AuthnCI struct {
	// Audience that the jobs' id_tokens name. It must not be one of clientIDs.
	Audience string `json:"audience"`
	// Issuer in the jobs' ID tokens, if GitLab was given one of its own for them. Empty: gitlab.url.
	Issuer string `json:"issuer,omitempty"`
	// Longest accepted age of such a token. Default 1h.
	MaxAge Duration `json:"maxAge,omitzero"`
}

// Authz says what a GitLab role means.
type Authz struct {
	// ClusterRoles and the access levels that stand for them, strongest first.
	// Default: edit for maintainer and owner, view for developer.
	Roles []Role `json:"roles,omitempty"`
	// What gets a namespace. Default [group, project, user].
	Kinds []string `json:"kinds,omitempty"`
	// Further names that no namespace may get; "*" at the end matches any rest. Top-level domains, names of the
	// cluster's DNS, kube-*, default and usual names of infrastructure always are: see docs/namespaces.md.
	ReservedNames []string `json:"reservedNames,omitempty"`
	// Give rights to access-token users and service accounts too, and let them log in.
	Bots bool `json:"bots,omitempty"`
	// What is left out: it gets no namespace, and people no rights. Memberships through a group that is left out count
	// as before.
	Exclude Exclude `json:"exclude,omitzero"`
	// Further ClusterRoles in single groups or projects, by GitLab id. Also name them in the integrator's own
	// ClusterRole (verbs bind and get).
	Extra []ExtraRole `json:"extra,omitempty"`
	// What rights are left in what GitLab has archived: view (the weakest role, default), none, or keep.
	Archived string `json:"archived,omitempty"`
	// The same for what GitLab is about to delete. Default view.
	MarkedForDeletion string `json:"markedForDeletion,omitempty"`
	// The sentence that tells a person how to log in.
	LoginHint string `json:"loginHint,omitempty"`
	// The webhook that explains refusals.
	Explain Explain `json:"explain,omitzero"`
}

// Explain is about the webhook that explains refusals. While kube-apiserver names it and it is away, refusals are HTTP 500.
type Explain struct {
	// Refusals are not explained: /authorize is not served. Take the webhook out of kube-apiserver's configuration first.
	Disabled bool `json:"disabled,omitempty"`
	// How many integrators answer under the address that kube-apiserver has. Fewer than 2 are a finding. Default 1.
	Replicas int `json:"replicas,omitempty"`
}

// Role maps access levels to a ClusterRole.
type Role struct {
	// Name of the ClusterRole.
	ClusterRole string `json:"clusterRole"`
	// GitLab access levels by name: owner, maintainer, developer, reporter, planner, guest.
	Levels []string `json:"levels"`
}

// Exclude says what is left out. Ids are the sure way: whoever may rename a thing can step out of a pattern.
type Exclude struct {
	// By id: group/7 (with everything below it), project/42 or user/3 (with their personal projects).
	Sources []string `json:"sources,omitempty"`
	// Patterns of full paths of groups and projects, e.g. "sandbox" (and all below), "*/tmp-*", "**/archive".
	Paths []string `json:"paths,omitempty"`
	// Patterns of user names.
	People []string `json:"people,omitempty"`
}

// ExtraRole gives a further ClusterRole.
type ExtraRole struct {
	// Where: group/7, project/42 or user/3.
	Source string `json:"source"`
	// Path of that source, for the reader: when GitLab's is another one, a finding says so. It decides nothing.
	Path string `json:"path,omitempty"`
	// Also in everything below the group.
	Below bool `json:"below,omitempty"`
	// Name of the ClusterRole.
	ClusterRole string `json:"clusterRole"`
	// Access levels there that get the role; with group, the levels in that group (none: every member).
	Levels []string `json:"levels,omitempty"`
	// Id of a group whose members get the role, whether or not they are members of source.
	Group int64 `json:"group,omitempty"`
	// Path of that group, checked like path.
	GroupPath string `json:"groupPath,omitempty"`
}

// RBACSync says how the cluster is made to follow GitLab.
type RBACSync struct {
	// plan: look and report, change nothing (default). enforce: make it so.
	Mode string `json:"mode,omitempty"`
	// Time between two full rounds; up to twice that while a thousand changes or more are written. Default 5m.
	Interval Duration `json:"interval,omitzero"`
	// Pod Security standard that namespaces enforce: baseline (default) or restricted.
	PodSecurity string `json:"podSecurity,omitempty"`
	// Exceptions from podSecurity, by GitLab id. For privileged an administrator also has to label the namespace
	// pod-security.kubernetes.io/enforce=privileged.
	PodSecurityExceptions []PodSecurityException `json:"podSecurityExceptions,omitempty"`
	// Writes to Kubernetes at the same time. Default 8.
	Concurrency int `json:"concurrency,omitempty"`
	// Writes to Kubernetes per second; what takes a right away is never slowed down. Default 0: as many as the API server
	// takes.
	WritesPerSecond float64 `json:"writesPerSecond,omitempty"`
	// What becomes of a namespace whose group or project is gone from GitLab. Rights in it go at once in any case.
	Deletion Deletion `json:"deletion,omitzero"`
	// Existing namespaces that groups or projects may take over. An administrator also has to label the namespace
	// app.kubernetes.io/managed-by=gl-k8s-integrator.
	Adopt []Adoption `json:"adopt,omitempty"`
	// Further objects that every namespace gets: quotas, network policies and so on. See docs/templates.md.
	Templates Templates `json:"templates,omitzero"`
	// Brakes on what looks like a mistake: see docs/held.md.
	Limits Limits `json:"limits,omitzero"`
}

// Templates says what namespaces hold beside rights.
type Templates struct {
	// Folder with manifests (*.yaml). Empty: none.
	Folder string `json:"folder,omitempty"`
	// Kinds that manifests may have. Default ResourceQuota, LimitRange, NetworkPolicy, ConfigMap, Secret; others are
	// written Kind.version.group/resource.
	Kinds []string `json:"kinds,omitempty"`
}

// Deletion says when namespaces are deleted.
type Deletion struct {
	// retain: never (default). delete: when the grace period is over and GitLab still answers that the source does not
	// exist; needs deploy/optional/namespace-deletion.yaml.
	Policy string `json:"policy,omitempty"`
	// How long a namespace is kept first; the source coming back within it restores all. At least 1h. Default 168h.
	Grace Duration `json:"grace,omitzero"`
}

// Adoption gives one existing namespace to one source.
type Adoption struct {
	// Name of the namespace.
	Namespace string `json:"namespace"`
	// Who takes it over: group/7, project/42 or user/3.
	Source string `json:"source"`
	// Path of that source; when GitLab's is another one, nothing is adopted.
	Path string `json:"path,omitempty"`
}

// Limits hold back what is over them until it is confirmed by GitLab or approved.
type Limits struct {
	// People, groups and projects that may go missing in one top-level group within the window: the larger of a number
	// and a share of its namespaces and people. Default 10 and 0.1.
	PerGroup Limit `json:"perGroup,omitzero"`
	// The same for all of GitLab. Default 50 and 0.02.
	Overall Limit `json:"overall,omitzero"`
	// People, groups and projects that may lose rights by a change of authz in this file. Default 10 and 0: to confirm a
	// larger change, approve it.
	Policy Limit `json:"policy,omitzero"`
	// The window. Default 1h.
	Window Duration `json:"window,omitzero"`
	// New namespaces per person and hour. Default 20.
	CreationsPerHour int `json:"creationsPerHour,omitempty"`
	// Ids of people whose new groups and projects are not counted, e.g. of an account that imports many.
	CreationsExempt []int64 `json:"creationsExempt,omitempty"`
	// No brakes at all.
	Disabled bool `json:"disabled,omitempty"`
}

// Limit is the larger of two.
type Limit struct {
	// A number.
	Count int `json:"count,omitempty"`
	// A share, 0 to 1.
	Fraction float64 `json:"fraction,omitempty"`
}

// PodSecurityException is another Pod Security standard for one source.
type PodSecurityException struct {
	// GitLab object by kind and id: group/7, project/42 or user/3.
	Source string `json:"source"`
	// baseline, restricted or privileged.
	Level string `json:"level"`
}

// CI says how deploy jobs get their credentials. docs/ci.md says which way exposes what to whom.
type CI struct {
	// variables: project CI/CD variables scoped to the environment (default). id-token: the same without a credential,
	// the job shows its ID token (authn.ci). agent: the same through GitLab's agent (ci.agent). certificate: GitLab's
	// deprecated cluster integration. none: nothing is handed over.
	Delivery string `json:"delivery,omitempty"`
	// Name of the GitLab environment whose jobs may deploy. Default ICC-K8s.
	Environment string `json:"environment,omitempty"`
	// Ids of projects whose credentials go to unprotected branches too. Everybody who can push there can deploy.
	UnprotectedProjects []int64 `json:"unprotectedProjects,omitempty"`
	// Jobs that get no credentials find a KUBECONFIG with which kubectl says in the job log what is missing: environment,
	// protected branch, ID token. There is no secret in it. It is a variable KUBECONFIG of all environments, which hides one of the
	// group or in .gitlab-ci.yml, and ~/.kube/config in images and scripts. Rules with if: $KUBECONFIG are true everywhere then, Auto
	// DevOps' among them. Groups with such jobs get explain: false (ci.projects). For deliveries variables and id-token; set it in one
	// cluster.
	Explain bool `json:"explain,omitempty"`
	// Where kubectl finds the token with delivery variables. file: in the file KUBECONFIG itself (default). variable: in
	// KUBE_TOKEN, which GitLab masks; it takes a shell (sh) in the job's image.
	KubeconfigToken string `json:"kubeconfigToken,omitempty"`
	// Lifetime asked for a token; it is replaced when 75 to 80 % of what the API server gave are over. At most 2160h. Default 720h.
	TokenLifetime Duration `json:"tokenLifetime,omitzero"`
	// How long what running jobs have still works after a project was moved to another delivery: at least the longest
	// job timeout. Default 1h.
	Handover Duration `json:"handover,omitzero"`
	// How long the Secret gitlab-serviceaccount-token of a namespace stays without a token after somebody lost the
	// right to read it: as long as a watch of theirs can live. Default 0: until an administrator allows a new one.
	TokenHold Duration `json:"tokenHold,omitzero"`
	// Projects, and groups with everything below them, for which something else holds. The nearest counts, for each of
	// delivery, namespace, explain and kubeconfigToken by itself.
	Projects []CIProject `json:"projects,omitempty"`
	// GitLab's agent for Kubernetes in this cluster. Needed for delivery agent.
	Agent *CIAgent `json:"agent,omitempty"`
}

// CIProject is what holds for one project, or for everything below one group.
type CIProject struct {
	// Which: project/42 or group/7.
	Source string `json:"source"`
	// Path of that source, for the reader: when GitLab's is another one, a finding says so. It decides nothing.
	Path string `json:"path,omitempty"`
	// As ci.delivery.
	Delivery string `json:"delivery,omitempty"`
	// project: the project deploys into its own namespace (default). group: into that of the group it is in, with that
	// group's credentials, if the group has a namespace; only for a source project/ID.
	Namespace string `json:"namespace,omitempty"`
	// As ci.explain.
	Explain *bool `json:"explain,omitempty"`
	// As ci.kubeconfigToken.
	KubeconfigToken string `json:"kubeconfigToken,omitempty"`
}

// CIAgent says which agent of GitLab serves the cluster.
type CIAgent struct {
	// Id of the agent, as GitLab shows it in the agent's page.
	ID int64 `json:"id"`
	// Name of the agent.
	Name string `json:"name"`
	// Project that holds the agent's configuration: project/12.
	ConfigProject string `json:"configProject"`
	// URL of GitLab's Kubernetes API proxy, e.g. https://kas.example.com/k8s-proxy/ or
	// https://gitlab.example.com/-/kubernetes-agent/k8s-proxy/.
	KASURL string `json:"kasURL"`
}

// Web is the page for people: see docs/page.md.
type Web struct {
	// URL that browsers reach listeners.web by, https://host[:port]. The redirect URI of the OAuth application is this with
	// /signin/callback behind it.
	URL string `json:"url,omitempty"`
	// Application id of a confidential OAuth application of GitLab with the scopes openid and profile, for the page alone. No
	// token for kubectl or for CI jobs may have it as audience. Empty: no page.
	ClientID string `json:"clientID,omitempty"`
	// File with the secret of that application. Read again when it changes.
	ClientSecretFile string `json:"clientSecretFile,omitempty"`
	// File with the key that sessions are encrypted with: 32 random bytes in base64 on one line. A second line is the key
	// before, so that nobody is signed out by a new one. The same file for all replicas. Read again when it changes.
	SessionKeyFile string `json:"sessionKeyFile,omitempty"`
	// Id of a group whose members, inherited ones too, see the pages for administrators. Absent: GitLab's administrators do.
	AdminGroup int64 `json:"adminGroup,omitempty"`
	// Language for who asks for none that there is: en (default) or de.
	Language string `json:"language,omitempty"`
}

// Duration is a time.Duration written as "5m" or "720h".
type Duration struct{ time.Duration }

// UnmarshalText reads Go's notation of durations; it refuses negative ones.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 30s, 5m or 24h", text)
	}
	if v < 0 {
		return fmt.Errorf("%q is negative", text)
	}
	d.Duration = v
	return nil
}

// MarshalText writes Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// History says what is kept of who had which right, and for how long: docs/history.md.
type History struct {
	// How many days a change is kept, at most a twentieth longer. 1 to 3660. Default 400.
	Days int `json:"days,omitempty"`
	// How long after somebody's removal from GitLab their name and id are kept in the history. At least 1h. Default 720h.
	PseudonymiseAfter Duration `json:"pseudonymiseAfter,omitzero"`
	// How many bytes the changes may have, compressed; the oldest are dropped then, whatever days is. 65536 to 10485760.
	// Default 8388608.
	MaxBytes int `json:"maxBytes,omitempty"`
}
