package gitlab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// ClusterMarker starts the name of every cluster integration that is ours.
const ClusterMarker = "gl-k8s-integrator"

// ProjectCluster is GitLab's deprecated certificate-based integration of one cluster with one project.
type ProjectCluster struct {
	Name      string // what stands after our ClusterMarker
	Scope     string // environment scope
	APIURL    string
	CA        string // PEM
	Namespace string
	Token     string `json:"-"` // a secret: in no error and no log
}

// String names the integration without its token.
func (c ProjectCluster) String() string { return fmt.Sprintf("%s (scope %q)", c.Name, c.Scope) }

// GoString keeps the token out of %#v too.
func (c ProjectCluster) GoString() string { return c.String() }

// fullName tells whose the integration is, and which token it has: GitLab never shows that, so without the digest each
// round would have to write it again. The token is of high entropy, so the digest gives nothing away.
func (c ProjectCluster) fullName(cluster string) string {
	return fmt.Sprintf("%s: %s (%s%s, token %s)", ClusterMarker, c.Name, clusterWord, cluster, TokenMark(c.Token))
}

// TokenMark is what stands for a token in the name of a cluster integration.
func TokenMark(token string) string {
	sum := sha256.Sum256([]byte("cluster token\x00" + token))
	return hex.EncodeToString(sum[:6])
}

// ownName is what fullName makes; before clusters were named, it was without the first part in parentheses.
var ownName = regexp.MustCompile(`^` + ClusterMarker + `: .*\((?:` + clusterWord + `([^\s,()]+), )?token ([0-9a-f]+)\)$`)

// What GitLab refuses of the certificate-based integration, each with a hint.
var (
	// ErrCertificateOff says that this GitLab does not offer the integration.
	ErrCertificateOff = errors.New("GitLab has the certificate-based cluster integration switched off, as it is by default since 15.0: an administrator" +
		" can switch on the feature flag certificate_based_clusters while it still exists, or use another ci.delivery")
	// ErrClusterURL says that GitLab does not let projects use this API URL.
	ErrClusterURL = errors.New("GitLab refuses the API URL because it leads into its local network: an administrator can allow requests to the local" +
		" network from webhooks and integrations (Admin > Settings > Network > Outbound requests), or list the address there")
	// ErrClusterRefused says that GitLab refuses the integration for another reason, which stands beside it.
	ErrClusterRefused = errors.New("GitLab refused the cluster integration as invalid: check the public URL and the CA of the API server")
)

// ForeignClusterError says that somebody has an integration of their own where ours belongs. Nothing was overwritten.
type ForeignClusterError struct {
	Project     int64
	Name, Scope string
}

func (e *ForeignClusterError) Error() string {
	return fmt.Sprintf("project %d already has a cluster integration %q with environment scope %q that is not ours (its name does not start with %q):"+
		" remove it or change its scope in the project's Operate > Kubernetes clusters, then the next round makes ours", e.Project, shorten(e.Name), e.Scope, ClusterMarker)
}

// Clusters writes GitLab's deprecated certificate-based integrations of projects, with the write token.
type Clusters struct{ api *api }

// NewClusters returns a writer. It does no request.
func NewClusters(o Options) (*Clusters, error) {
	a, err := newAPI(o)
	if err != nil {
		return nil, err
	}
	return &Clusters{api: a}, nil
}

// Requests returns how many requests of each kind were sent so far.
func (w *Clusters) Requests() map[string]int64 { return w.api.gate.requests() }

type restCluster struct {
	ID       int64  `json:"id"`
	Name     string `json:"name"`
	Enabled  bool   `json:"enabled"`
	Managed  bool   `json:"managed"`
	Scope    string `json:"environment_scope"`
	Platform struct {
		APIURL    string `json:"api_url"`
		Namespace string `json:"namespace"`
		CA        string `json:"ca_cert"`
	} `json:"platform_kubernetes"`
}

// integration judges whose it is. The mark of the version before names no cluster, but the API URL does.
func (c Claim) integration(h restCluster, apiURL string) (whose owner, cluster string) {
	m := ownName.FindStringSubmatch(h.Name)
	if m == nil {
		return somebodys, ""
	}
	return c.whose(true, m[1], func() bool { return h.Platform.APIURL == apiURL }), m[1]
}

// Ensure makes the project have this integration, unmanaged, and reports whether anything had to be written. One with the
// same scope that is another cluster's by the claim is an *OtherClusterError, one of somebody else a *ForeignClusterError. Other errors are ErrCertificateOff,
// ErrClusterURL, ErrClusterRefused, ErrNoMaintainer and those of the client.
func (w *Clusters) Ensure(ctx context.Context, project int64, c ProjectCluster, claim Claim) (changed bool, err error) {
	if c.Scope == "" || c.APIURL == "" || c.Token == "" {
		return false, fmt.Errorf("cluster integration of project %d: scope, API URL and token must be given", project)
	}
	have, err := w.list(ctx, project)
	if err != nil {
		return false, err
	}
	c.CA = strings.TrimSpace(c.CA) // as GitLab stores it
	doing := fmt.Sprintf("writing the cluster integration of project %d with scope %q", project, c.Scope)
	name := c.fullName(claim.Cluster)
	platform := map[string]any{"api_url": c.APIURL, "ca_cert": c.CA, "namespace": c.Namespace, "token": c.Token}
	body := map[string]any{
		"name": name, "enabled": true, "managed": false, "namespace_per_environment": false, "environment_scope": c.Scope,
		"platform_kubernetes_attributes": platform,
	}
	base := fmt.Sprintf("projects/%d/clusters", project)
	i := slices.IndexFunc(have, func(h restCluster) bool { return h.Scope == c.Scope })
	if i >= 0 {
		h := have[i]
		whose, cluster := claim.integration(h, c.APIURL)
		switch {
		case whose == otherCluster:
			return false, &OtherClusterError{Project: project, Scope: h.Scope, Cluster: cluster}
		case whose == somebodys:
			return false, &ForeignClusterError{Project: project, Name: h.Name, Scope: h.Scope}
		case h.Name == name && h.as(c):
			return false, nil
		case !h.Managed:
			err := w.api.do(ctx, doing, http.MethodPut, fmt.Sprintf("%s/%d", base, h.ID), nil, body, nil, c.Token)
			return err == nil, explainCluster(project, err)
		}
		// GitLab refuses changes of what it manages itself.
		if err := w.api.do(ctx, doing, http.MethodDelete, fmt.Sprintf("%s/%d", base, h.ID), nil, nil, nil); err != nil && !errors.Is(err, ErrNotFound) {
			return false, explainCluster(project, err)
		}
	}
	platform["authorization_type"] = "rbac"
	err = w.api.do(ctx, doing, http.MethodPost, base+"/user", nil, body, nil, c.Token)
	return err == nil, explainCluster(project, err)
}

// as reports whether an integration leads where it should, with whatever token.
func (h restCluster) as(c ProjectCluster) bool {
	return h.Enabled && !h.Managed && h.Platform.APIURL == c.APIURL && h.Platform.Namespace == c.Namespace &&
		strings.TrimSpace(h.Platform.CA) == strings.TrimSpace(c.CA)
}

// Look returns the TokenMark of the project's integration of this scope, "" if there is none that is ours by the claim and leads
// where it should. c needs no token. The errors are those of Ensure.
func (w *Clusters) Look(ctx context.Context, project int64, c ProjectCluster, claim Claim) (string, error) {
	have, err := w.list(ctx, project)
	if err != nil {
		return "", err
	}
	for _, h := range have {
		if whose, cluster := claim.integration(h, c.APIURL); h.Scope == c.Scope && whose == ours && cluster == claim.Cluster && h.as(c) {
			return ownName.FindStringSubmatch(h.Name)[2], nil
		}
	}
	return "", nil
}

// Remove deletes our integrations of the given environment scopes from a project and returns how many there were; apiURL is
// that of the API server, as Ensure was given it. A
// project that does not exist has none, and neither has one of a GitLab that has them switched off.
func (w *Clusters) Remove(ctx context.Context, project int64, scopes []string, apiURL string, claim Claim) (removed int, err error) {
	have, err := w.list(ctx, project)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCertificateOff) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, h := range have {
		if whose, _ := claim.integration(h, apiURL); whose != ours || !slices.Contains(scopes, h.Scope) {
			continue
		}
		err := w.api.do(ctx, fmt.Sprintf("removing the cluster integration of project %d with scope %q", project, h.Scope), http.MethodDelete,
			fmt.Sprintf("projects/%d/clusters/%d", project, h.ID), nil, nil, nil)
		switch {
		case err == nil:
			removed++
		case errors.Is(err, ErrNotFound): // somebody was faster
		default:
			errs = append(errs, explainCluster(project, err))
		}
	}
	return removed, errors.Join(errs...)
}

func (w *Clusters) list(ctx context.Context, project int64) ([]restCluster, error) {
	var out []restCluster
	doing := fmt.Sprintf("listing the cluster integrations of project %d", project)
	for page := 1; page <= 100; page++ {
		var rows []restCluster
		q := url.Values{"per_page": {"100"}, "page": {fmt.Sprint(page)}}
		if err := w.api.do(ctx, doing, http.MethodGet, fmt.Sprintf("projects/%d/clusters", project), q, nil, &rows); err != nil {
			if errors.Is(err, ErrNotFound) {
				return nil, w.off(ctx, project, err)
			}
			return nil, explainCluster(project, err)
		}
		out = append(out, rows...)
		if len(rows) < 100 {
			return out, nil
		}
	}
	return nil, fmt.Errorf("%s: there is no end of them", doing)
}

// off tells a feature that is switched off from a project that does not exist: GitLab answers both with 404.
func (w *Clusters) off(ctx context.Context, project int64, notFound error) error {
	_, err := w.api.project(ctx, project)
	switch {
	case err == nil:
		return fmt.Errorf("cluster integration of project %d: %w", project, ErrCertificateOff)
	case errors.Is(err, ErrNotFound):
		return explainCluster(project, notFound)
	}
	return err
}

func explainCluster(project int64, err error) error {
	e, ok := errors.AsType[*callError](err)
	if !ok {
		return err
	}
	out := *e
	switch e.status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		out.kind = ErrClusterRefused
		if strings.Contains(e.detail, "is blocked") {
			out.kind = ErrClusterURL
		}
	case http.StatusForbidden:
		out.kind = fmt.Errorf("%w (%w): project %d", ErrNoMaintainer, ErrForbidden, project)
	case http.StatusNotFound:
		out.kind = fmt.Errorf("%w: project %d; %w", ErrNotFound, project, ErrNoMaintainer)
	}
	return &out
}

// Environments looks into environments, the licence and agents with the write token.
type Environments struct{ api *api }

// NewEnvironments returns what looks. It does no request.
func NewEnvironments(o Options) (*Environments, error) {
	a, err := newAPI(o)
	if err != nil {
		return nil, err
	}
	return &Environments{api: a}, nil
}

// Requests returns how many requests of each kind were sent so far.
func (w *Environments) Requests() map[string]int64 { return w.api.gate.requests() }

// Slug returns the slug of the environment of this name, which GitLab makes of the name and which nobody else can foretell
// for sure. An environment that does not exist is created, as the first job with it would do.
func (w *Environments) Slug(ctx context.Context, project int64, name string) (string, error) {
	type environment struct{ Name, Slug string }
	path := fmt.Sprintf("projects/%d/environments", project)
	find := func() (string, error) {
		var rows []environment
		if err := w.api.do(ctx, fmt.Sprintf("looking for environment %q of project %d", name, project), http.MethodGet, path,
			url.Values{"name": {name}}, nil, &rows); err != nil {
			return "", err
		}
		for _, e := range rows {
			if e.Name == name {
				return e.Slug, nil
			}
		}
		return "", nil
	}
	if slug, err := find(); err != nil || slug != "" {
		return slug, err
	}
	var made environment
	err := w.api.do(ctx, fmt.Sprintf("creating environment %q of project %d", name, project), http.MethodPost, path, nil, map[string]any{"name": name}, &made)
	if err == nil && made.Slug == "" {
		return "", fmt.Errorf("creating environment %q of project %d: %w (its answer has no slug)", name, project, ErrNotGitLab)
	}
	if statusOf(err) == http.StatusBadRequest { // a job was faster
		if slug, again := find(); again == nil && slug != "" {
			return slug, nil
		}
	}
	return made.Slug, err
}

// Impersonation reports whether this GitLab lets its agent for Kubernetes act as the CI job, which needs Premium or
// Ultimate; why says what it is instead. Only an administrator's token may ask for the licence.
func (w *Environments) Impersonation(ctx context.Context) (ok bool, why string, err error) {
	var licence *struct {
		Plan    string `json:"plan"`
		Expired bool   `json:"expired"`
	}
	err = w.api.do(ctx, "looking for GitLab's licence", http.MethodGet, "license", nil, nil, &licence)
	const without = "the agent would act with its own rights instead of the job's; use another ci.delivery, or a licence of the tier Premium or Ultimate"
	switch {
	case errors.Is(err, ErrNotFound):
		return false, "this GitLab is a Community Edition: " + without, nil
	case err != nil:
		return false, "", err
	case licence == nil || licence.Plan == "":
		return false, "this GitLab has no licence: " + without, nil
	case licence.Expired:
		return false, fmt.Sprintf("the licence of this GitLab (%s) has expired: %s", shorten(licence.Plan), without), nil
	case licence.Plan != "premium" && licence.Plan != "ultimate":
		return false, fmt.Sprintf("this GitLab has the licence %q: %s", shorten(licence.Plan), without), nil
	}
	return true, "", nil
}

// Agent is a GitLab agent for Kubernetes.
type Agent struct {
	ID            int64
	Name          string
	ConfigProject string // full path
}

// Context is the name of the agent's context in the kubeconfig that GitLab gives to jobs.
func (a Agent) Context() string { return a.ConfigProject + ":" + a.Name }

// Agent returns the agent with this id of the project that holds its configuration; ErrNotFound if there is none.
func (w *Environments) Agent(ctx context.Context, configProject, agentID int64) (Agent, error) {
	var a struct {
		ID     int64  `json:"id"`
		Name   string `json:"name"`
		Config struct {
			Path string `json:"path_with_namespace"`
		} `json:"config_project"`
	}
	if err := w.api.do(ctx, fmt.Sprintf("looking for agent %d of project %d", agentID, configProject), http.MethodGet,
		fmt.Sprintf("projects/%d/cluster_agents/%d", configProject, agentID), nil, nil, &a); err != nil {
		return Agent{}, err
	}
	if a.ID != agentID || a.Name == "" {
		return Agent{}, fmt.Errorf("looking for agent %d of project %d: %w (the answer is about something else)", agentID, configProject, ErrNotGitLab)
	}
	return Agent{ID: a.ID, Name: a.Name, ConfigProject: a.Config.Path}, nil
}
