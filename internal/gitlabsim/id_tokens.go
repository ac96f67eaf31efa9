package gitlabsim

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// idTokens makes the ID tokens of users and of CI jobs.
type idTokens struct {
	*instance
	signing *signing
	access  *access
}

// RotateUserKey replaces the key of user ID tokens abruptly, as GitLab does: the old one leaves the JWKS.
func (s *idTokens) RotateUserKey() error { return s.signing.rotate(&s.signing.user) }

// RotateCIKey replaces the key of CI job ID tokens abruptly.
func (s *idTokens) RotateCIKey() error { return s.signing.rotate(&s.signing.ci) }

// TokenOptions changes what MintUserIDToken makes.
type TokenOptions struct {
	Nonce    string
	Lifetime time.Duration // default Options.IDTokenLifetime
	Scopes   []string      // only "email" matters: without it the public e-mail is used, and there is none
	// Edit changes the claims before they are signed, for tests of hostile tokens.
	Edit func(claims map[string]any)
}

// MintUserIDToken makes the ID token that GitLab would give to clientID for an active user.
func (s *idTokens) MintUserIDToken(userID int64, clientID string, opts TokenOptions) (string, error) {
	claims, err := s.userClaims(userID, opts.Scopes, false)
	if err != nil {
		return "", err
	}
	now := s.now()
	claims["iss"], claims["aud"], claims["iat"] = s.url, clientID, now.Unix()
	claims["exp"] = now.Add(cmp.Or(opts.Lifetime, s.opts.IDTokenLifetime)).Unix()
	if t, ok := s.access.lastSignIn(userID); ok {
		claims["auth_time"] = t.Unix()
	}
	if opts.Nonce != "" {
		claims["nonce"] = opts.Nonce
	}
	if opts.Edit != nil {
		opts.Edit(claims)
	}
	s.signing.mu.Lock()
	defer s.signing.mu.Unlock()
	return sign(s.signing.user, claims)
}

// userClaims are the claims of https://docs.gitlab.com/integration/openid_connect_provider/, either of an ID token or of the userinfo answer.
func (s *idTokens) userClaims(userID int64, scopes []string, userinfo bool) (map[string]any, error) {
	claims := map[string]any{}
	var err error
	s.world.View(func(v *View) {
		u := v.User(userID)
		if u == nil || u.State != StateActive {
			err = fmt.Errorf("making claims for user %d: there is no such active user", userID)
			return
		}
		id := strconv.FormatInt(u.ID, 10)
		sum := sha256.Sum256([]byte(id + "-" + s.signing.secret))
		claims["sub"], claims["sub_legacy"] = id, hex.EncodeToString(sum[:])
		if userinfo || !s.opts.OldClaims {
			claims["name"], claims["nickname"], claims["preferred_username"] = u.Name, u.Username, u.Username
			claims["profile"], claims["picture"] = s.url+"/"+u.Username, avatar(s.url, u)
		}
		if slices.Contains(scopes, "email") {
			claims["email"], claims["email_verified"] = u.Email, true
		}
		direct := []string{}
		roles := map[int][]string{}
		groups, _ := v.MembershipsOf(u.ID)
		for _, gid := range groups {
			g := v.Group(gid)
			direct = append(direct, v.FullPath(g))
			roles[g.Member(u.ID).Level] = append(roles[g.Member(u.ID).Level], v.FullPath(g))
		}
		slices.Sort(direct)
		if !userinfo {
			claims["groups_direct"] = direct
			return
		}
		all := map[string]bool{}
		for _, gid := range groups {
			all[v.FullPath(v.Group(gid))] = true
			for _, d := range v.Descendants(gid) {
				all[v.FullPath(d)] = true
			}
		}
		paths := slices.AppendSeq([]string{}, maps.Keys(all))
		slices.Sort(paths)
		claims["groups"] = paths // [] where there are none: only nil and "" are left out
		for level, name := range map[int]string{Owner: "owner", Maintainer: "maintainer", Developer: "developer"} {
			if paths := roles[level]; len(paths) > 0 {
				slices.Sort(paths)
				claims["https://gitlab.org/claims/groups/"+name] = paths
			}
		}
	})
	return claims, err
}

// JobContext says which CI job an ID token (or a CI_JOB_TOKEN) is for. Zero fields get GitLab's usual values.
type JobContext struct {
	ProjectID int64 // where the job runs
	// SourceProjectID is the project that the code comes from, if that is another one: the fork of a merge
	// request pipeline. project_id and namespace_id of the token are then the fork's (https://docs.gitlab.com/ci/secrets/id_token_authentication/).
	SourceProjectID   int64
	JobID, PipelineID int64
	UserID            int64 // 0 = the job has no user
	Ref               string
	RefType           string // branch (default) or tag
	RefProtected      bool
	Environment       string // "" = the job has no environment
	DeploymentTier    string // default from the name, as in GitLab
	EnvironmentAction string // default start
	// KubernetesNamespace is environment:kubernetes:namespace: it replaces that of the cluster integration.
	KubernetesNamespace string
	// EnvironmentProtected is always false on CE.
	EnvironmentProtected bool
	PipelineSource       string // default push
	SHA                  string
	RunnerID             int64         // 0 = no runner: the claim is absent
	Timeout              time.Duration // default 1 h; negative = none, then the token lives 300 s
	// Old leaves out job_project_* and job_namespace_*, as GitLab before 18.4.
	Old bool
	// Edit changes the claims before they are signed, for tests of hostile tokens.
	Edit func(claims map[string]any)
}

// MintCIIDToken makes the ID token that `id_tokens:` of a job yields. The job's author chooses aud.
func (s *idTokens) MintCIIDToken(job JobContext, aud []string) (string, error) {
	if len(aud) == 0 {
		return "", fmt.Errorf("making an ID token of job %d: it needs an audience", job.JobID)
	}
	job.Ref, job.RefType = cmp.Or(job.Ref, "main"), cmp.Or(job.RefType, "branch")
	job.PipelineSource, job.SHA = cmp.Or(job.PipelineSource, "push"), cmp.Or(job.SHA, "714a629c0b401fdce83e847fc9589983fc6f46bc")
	source := cmp.Or(job.SourceProjectID, job.ProjectID)
	claims := map[string]any{}
	var err error
	s.world.View(func(v *View) {
		p, from := v.Project(job.ProjectID), v.Project(source)
		if p == nil || from == nil {
			err = fmt.Errorf("making an ID token of job %d: no project %d or %d", job.JobID, job.ProjectID, source)
			return
		}
		str := func(id int64) string { return strconv.FormatInt(id, 10) }
		claims["namespace_id"], claims["namespace_path"] = str(from.NamespaceID), v.NamespacePath(from)
		claims["project_id"], claims["project_path"] = str(from.ID), v.ProjectPath(from)
		if !job.Old {
			claims["job_project_id"], claims["job_project_path"] = str(p.ID), v.ProjectPath(p)
			claims["job_namespace_id"], claims["job_namespace_path"] = str(p.NamespaceID), v.NamespacePath(p)
		}
		claims["user_id"], claims["user_login"], claims["user_email"], claims["user_access_level"] = "", nil, nil, nil
		if u := v.User(job.UserID); u != nil {
			claims["user_id"], claims["user_login"], claims["user_email"] = str(u.ID), u.Username, u.Email
			if level := v.ProjectLevel(from.ID, u.ID); level > NoAccess {
				claims["user_access_level"] = lowerLevel(level)
			}
		}
		claims["pipeline_id"], claims["pipeline_source"], claims["job_id"] = str(job.PipelineID), job.PipelineSource, str(job.JobID)
		claims["job_source"] = job.PipelineSource
		kind := "heads"
		if job.RefType == "tag" {
			kind = "tags"
		}
		claims["ref"], claims["ref_type"], claims["ref_path"] = job.Ref, job.RefType, "refs/"+kind+"/"+job.Ref
		claims["ref_protected"] = strconv.FormatBool(job.RefProtected)
		if job.Environment != "" {
			claims["environment"], claims["environment_protected"] = job.Environment, strconv.FormatBool(job.EnvironmentProtected)
			claims["deployment_tier"] = cmp.Or(job.DeploymentTier, tierOf(job.Environment))
			claims["environment_action"] = cmp.Or(job.EnvironmentAction, "start")
		}
		if job.RunnerID != 0 {
			claims["runner_id"] = job.RunnerID // the only id that is a number
		}
		claims["runner_environment"], claims["sha"], claims["project_visibility"] = "self-hosted", job.SHA, p.Visibility
		host := s.url[len("https://"):]
		claims["ci_config_ref_uri"] = host + "/" + v.ProjectPath(p) + "//.gitlab-ci.yml@refs/" + kind + "/" + job.Ref
		claims["ci_config_sha"] = job.SHA
		claims["sub"] = "project_path:" + v.ProjectPath(from) + ":ref_type:" + job.RefType + ":ref:" + job.Ref
	})
	if err != nil {
		return "", err
	}
	now := s.now()
	lifetime := cmp.Or(job.Timeout, time.Hour)
	if lifetime < 0 {
		lifetime = 300 * time.Second
	}
	claims["jti"], claims["iss"] = newUUID(), cmp.Or(s.opts.CIIssuer, s.url)
	claims["iat"], claims["nbf"], claims["exp"] = now.Unix(), now.Add(-5*time.Second).Unix(), now.Add(lifetime).Unix()
	claims["aud"] = aud[0]
	if len(aud) > 1 {
		claims["aud"] = aud
	}
	if job.Edit != nil {
		job.Edit(claims)
	}
	s.signing.mu.Lock()
	defer s.signing.mu.Unlock()
	return sign(s.signing.ci, claims)
}

func lowerLevel(level int) string {
	return strings.ReplaceAll(strings.ToLower(LevelName(level)), " ", "_")
}
