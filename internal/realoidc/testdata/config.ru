# A provider of OpenID Connect made of GitLab's own library (doorkeeper-openid_connect) with GitLab's settings. It keeps
# everything in memory. Its surroundings come from the environment: ISSUER, SIGNING_KEY (a file), CLIENT_ID, REDIRECT_URIS.
require 'action_controller/railtie'
require 'active_record'
require 'doorkeeper'
require 'doorkeeper/orm/active_record'
require 'doorkeeper/openid_connect'

ActiveRecord::Base.establish_connection(adapter: 'sqlite3', database: 'file::memory:?cache=shared', pool: 8)
ActiveRecord::Schema.verbose = false
ActiveRecord::Schema.define do
  create_table(:users) { |t| t.string :username; t.string :email; t.datetime :current_sign_in_at }
  create_table :oauth_applications do |t|
    t.string :name, :uid, :secret, null: false
    t.text :redirect_uri, null: false
    t.string :scopes, null: false, default: ''
    t.boolean :confidential, null: false, default: true
    t.timestamps
  end
  create_table :oauth_access_grants do |t|
    t.references :resource_owner, :application, null: false
    t.string :token, null: false
    t.integer :expires_in, null: false
    t.text :redirect_uri, null: false
    t.string :scopes, null: false, default: ''
    t.string :code_challenge, :code_challenge_method
    t.datetime :revoked_at
    t.datetime :created_at, null: false
  end
  create_table :oauth_access_tokens do |t|
    t.references :resource_owner, :application
    t.string :token, null: false
    t.string :refresh_token, :scopes
    t.integer :expires_in
    t.datetime :revoked_at
    t.datetime :created_at, null: false
  end
  create_table(:oauth_openid_requests) { |t| t.references :access_grant, null: false; t.string :nonce, null: false }
end
class User < ActiveRecord::Base; end

class Provider < Rails::Application
  config.load_defaults 6.1
  config.eager_load = false
  config.secret_key_base = 'of this test only' * 4
  config.hosts.clear
  config.action_controller.default_protect_from_forgery = false # the form here is the test's own
  config.logger = Logger.new($stderr, level: :warn)
  config.log_level = :warn
  routes.append do
    use_doorkeeper
    use_doorkeeper_openid_connect
    post '/users/sign_in', to: 'sign_in#create'
  end
end

# The login form is the test's, not GitLab's: the library leaves it to the application.
class SignInController < ActionController::Base
  def create
    session[:user] = User.find_by!(username: params.require(:user)[:login]).id
    redirect_to params[:return_to]
  end
end

Doorkeeper.configure do
  orm :active_record
  resource_owner_authenticator do
    User.find_by(id: session[:user]) || render(html: %(<form action="/users/sign_in"><input name="authenticity_token" value="0"><input name="return_to" value="#{ERB::Util.h(request.fullpath)}"></form>).html_safe)
  end
  skip_authorization { true }
  grant_flows %w[authorization_code password client_credentials]
  use_refresh_token
  force_ssl_in_redirect_uri false
  default_scopes :api
  optional_scopes :read_user, :openid, :profile, :email
  hash_token_secrets
  base_controller 'ActionController::Base'
end
Doorkeeper::OpenidConnect.configure do
  issuer ENV.fetch('ISSUER')
  signing_key File.read(ENV.fetch('SIGNING_KEY'))
  signing_algorithm :rs256
  protocol { :https }
  resource_owner_from_access_token { |token| User.find_by(id: token.resource_owner_id) }
  auth_time_from_resource_owner { |user| user.current_sign_in_at }
  reauthenticate_resource_owner { |_, return_to| redirect_to return_to }
  select_account_for_resource_owner { |_, return_to| redirect_to return_to }
  subject { |user| user.id }
  expiration 120
  claims do
    normal_claim(:sub_legacy, scope: :openid, response: %i[id_token user_info]) { |user| Digest::SHA256.hexdigest("#{user.id}-secret") }
    %i[name nickname preferred_username].each { |c| normal_claim(c, scope: :openid, response: %i[id_token user_info]) { |user| user.username } }
    %i[profile picture].each { |c| normal_claim(c, scope: :openid, response: %i[id_token user_info]) { |user| "https://gitlab.example.com/#{user.username}" } }
    normal_claim(:email, scope: :openid, response: %i[id_token user_info]) { |_, scopes| scopes.exists?(:email) ? 'alice@example.com' : nil }
    normal_claim(:email_verified, scope: :openid, response: %i[id_token user_info]) { |_, scopes| scopes.exists?(:email) || nil }
    normal_claim(:groups, scope: :openid, response: [:user_info]) { [] }
    normal_claim(:groups_direct, scope: :openid, response: [:id_token]) { %w[haw haw/world] }
  end
end

Provider.initialize!
User.create!(id: 41, username: 'alice', email: 'alice@example.com', current_sign_in_at: Time.now)
Doorkeeper::Application.create!(name: 'kubectl', uid: ENV.fetch('CLIENT_ID'), secret: 'unused', confidential: false,
                                redirect_uri: ENV.fetch('REDIRECT_URIS'), scopes: 'openid profile email')
Doorkeeper::Application.create!(name: 'web', uid: 'web', secret: 'gloas-x', redirect_uri: 'http://localhost:8000', scopes: 'openid')
run Provider
