package gitlabsim

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// signing holds the two keys of the JWKS: one signs user ID tokens, the other CI job ID tokens. Nothing in the
// JWKS says which is which (facts 1.3).
type signing struct {
	mu       sync.Mutex
	user, ci *rsa.PrivateKey
	secret   string // secret_key_base, for sub_legacy
}

func newSigning(user, ci *rsa.PrivateKey) (*signing, error) {
	s := &signing{user: user, ci: ci, secret: randomHex(32)}
	for _, k := range []**rsa.PrivateKey{&s.user, &s.ci} {
		if *k == nil {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				return nil, fmt.Errorf("making a signing key: %w", err)
			}
			*k = key
		}
	}
	return s, nil
}

// RotateUserKey replaces the key of user ID tokens abruptly, as GitLab does: the old one leaves the JWKS.
func (s *Server) RotateUserKey() error { return s.signing.rotate(&s.signing.user) }

// RotateCIKey replaces the key of CI job ID tokens abruptly.
func (s *Server) RotateCIKey() error { return s.signing.rotate(&s.signing.ci) }

func (k *signing) rotate(key **rsa.PrivateKey) error {
	fresh, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("making a signing key: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	*key = fresh
	return nil
}

func publicKey(key *rsa.PrivateKey) (jose.JSONWebKey, error) {
	jwk := jose.JSONWebKey{Key: &key.PublicKey, Use: "sig", Algorithm: "RS256"}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return jwk, fmt.Errorf("computing a key id: %w", err)
	}
	jwk.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	return jwk, nil
}

func (k *signing) jwks() (jose.JSONWebKeySet, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, key := range []*rsa.PrivateKey{k.user, k.ci} {
		jwk, err := publicKey(key)
		if err != nil {
			return set, err
		}
		// GitLab's list is uniq: one key for both is possible.
		if len(set.Key(jwk.KeyID)) == 0 {
			set.Keys = append(set.Keys, jwk)
		}
	}
	return set, nil
}

func sign(key *rsa.PrivateKey, claims map[string]any) (string, error) {
	jwk, err := publicKey(key)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", jwk.KeyID))
	if err != nil {
		return "", fmt.Errorf("preparing a signature: %w", err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	object, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return object.CompactSerialize()
}

// TokenOptions changes what MintUserIDToken makes.
type TokenOptions struct {
	Nonce    string
	Lifetime time.Duration // default Options.IDTokenLifetime
	Scopes   []string      // only "email" matters: without it the public e-mail is used, and there is none
	// Edit changes the claims before they are signed, for tests of hostile tokens.
	Edit func(claims map[string]any)
}

// MintUserIDToken makes the ID token that GitLab would give to clientID for an active user.
func (s *Server) MintUserIDToken(userID int64, clientID string, opts TokenOptions) (string, error) {
	claims, err := s.userClaims(userID, opts.Scopes, false)
	if err != nil {
		return "", err
	}
	now := s.now()
	claims["iss"], claims["aud"], claims["iat"] = s.url, clientID, now.Unix()
	claims["exp"] = now.Add(cmp.Or(opts.Lifetime, s.opts.IDTokenLifetime)).Unix()
	s.access.mu.Lock()
	if t, ok := s.access.signedIn[userID]; ok {
		claims["auth_time"] = t.Unix()
	}
	s.access.mu.Unlock()
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

// userClaims are the claims of facts 2.1, either of an ID token or of the userinfo answer.
func (s *Server) userClaims(userID int64, scopes []string, userinfo bool) (map[string]any, error) {
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
	// request pipeline. project_id and namespace_id of the token are then the fork's (facts 3.1, 3.4).
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
func (s *Server) MintCIIDToken(job JobContext, aud []string) (string, error) {
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
