// A certified OpenID provider for the tests, on one loopback port until its standard input ends.
//
// It knows no passwords: a form says who logs in, and how strongly. What the tests change while it runs comes as lines
// of JSON on standard input, each answered by one line on standard output.

import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const setup = JSON.parse(process.argv[2]);
const { default: Provider } = await import(pathToFileURL(setup.library));
const accounts = new Map(setup.accounts.map((account) => [account.sub, account]));

const configuration = {
  clients: setup.clients,
  jwks: setup.jwks,
  cookies: { keys: ['only for tests'] },
  findAccount: (ctx, sub) => {
    const account = accounts.get(sub);
    if (!account || account.disabled) return undefined;
    return { accountId: sub, claims: () => ({ ...account.claims, sub }) };
  },
  claims: {
    openid: ['sub', 'acr', 'amr'],
    email: ['email', 'email_verified'],
    profile: ['name'],
    groups: ['groups'],
    auth_time: null, iss: null, sid: null,
  },
  scopes: ['openid', 'offline_access', 'email', 'profile', 'groups'],
  conformIdTokenClaims: false, // as most providers do it: the claims of the scopes are in the ID token
  acrValues: ['urn:example:mfa', 'urn:example:pwd', 'urn:example:phr'],
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256'] },
  clientDefaults: { id_token_signed_response_alg: 'ES256' },
  features: {
    devInteractions: { enabled: false },
    deviceFlow: { enabled: true },
    clientCredentials: { enabled: true },
    revocation: { enabled: true },
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    claimsParameter: { enabled: setup.takes_claims },
    resourceIndicators: {
      enabled: true,
      // No default: a person's login asks for no resource, and its access token is opaque.
      getResourceServerInfo: (ctx, resource) => ({
        audience: resource, scope: '', accessTokenFormat: 'jwt', accessTokenTTL: 300, jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  // The dispatcher that it brings refuses to call the loopback.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  ttl: { AccessToken: 300, IdToken: 300, RefreshToken: 86400, Session: 86400, Grant: 86400, Interaction: 600 },
  loadExistingGrant: async (ctx) => {
    const { client, session, params } = ctx.oidc;
    const known = session.grantIdFor(client.clientId);
    const grant = (known && (await ctx.oidc.provider.Grant.find(known))) ||
      new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(params.scope);
    await grant.save();
    return grant;
  },
};

const provider = new Provider(setup.issuer, configuration);
provider.on('server_error', (ctx, error) => console.error(error));
provider.on('backchannel.error', (ctx, error, client) => console.error('back channel', client.clientId, error));

async function body(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return new URLSearchParams(Buffer.concat(chunks).toString());
}

// The login form: whoever is named is logged in, as the form says: with a second factor, or by any acr and amr.
provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) return next();
  const { prompt, params } = await provider.interactionDetails(ctx.req, ctx.res);
  if (ctx.method === 'GET') {
    ctx.type = 'html';
    ctx.body = `<!doctype html><title>Who are you?</title><form method="post">${[...accounts.keys()]
      .map((sub) => `<button name="account" value="${sub}">${sub}</button>`).join('')}
      <label><input type="checkbox" name="mfa" value="yes"> with a second factor</label></form>`;
    return undefined;
  }
  const form = await body(ctx.req);
  let result;
  if (form.get('account')) {
    const mfa = form.get('mfa') === 'yes';
    result = {
      login: {
        accountId: form.get('account'),
        amr: form.get('amr')?.split(',') ?? (mfa ? ['pwd', 'otp', 'mfa'] : ['pwd']),
        acr: form.get('acr') ?? (mfa ? 'urn:example:mfa' : 'urn:example:pwd'),
      },
    };
  } else if (form.get('error')) {
    result = { error: form.get('error') };
  } else {
    result = { error: 'access_denied', error_description: `nobody answered ${prompt.name} of ${params.client_id}` };
  }
  if (prompt.name === 'consent') result.consent = {};
  return provider.interactionFinished(ctx.req, ctx.res, result, { mergeWithLastSubmission: true });
});

const commands = {
  claims: ({ sub, claims }) => Object.assign(accounts.get(sub).claims, claims),
  disable: ({ sub }) => { accounts.get(sub).disabled = true; },
};

const server = provider.listen(setup.port, '127.0.0.1', () => console.log('ready'));
const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const command = JSON.parse(line);
  commands[command.do](command);
  console.log('done');
});
lines.on('close', () => {
  server.close();
  server.closeAllConnections();
  process.exit(0);
});
