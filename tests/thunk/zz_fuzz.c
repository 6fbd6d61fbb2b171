#include "native.h"
#include "cpu/thunk/thunk_internal.h"
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
static struct native n;
int main(int c,char**v){native_create(&n); if(c>1) n.random^=strtoull(v[1],0,0)*0x9e3779b97f4a7c15ull;
 long N=c>2?atol(v[2]):200000; long bound=0,diff=0;
 uint8_t*pg=mmap(NULL,4096,7,MAP_PRIVATE|MAP_ANONYMOUS,-1,0);
 ZydisDecoder d;ZydisDecoderInit(&d,ZYDIS_MACHINE_MODE_LONG_64,ZYDIS_STACK_WIDTH_64);
 for(long k=0;k<N&&diff<40;k++){
  uint8_t b[16];uint64_t r=native_random(&n);int l=0;
  int kind=r%4;
  if(kind<2){ if(r>>8&1)b[l++]=0x66; switch(r>>9&3){case 1:b[l++]=0xf2;break;case 2:b[l++]=0xf3;break;} if(r>>11&1)b[l++]=0x40|(r>>12&15); b[l++]=0x0f; int m=r>>16&3; if(m==1)b[l++]=0x38; if(m==2)b[l++]=0x3a; b[l++]=r>>20;}
  else if(kind==2){ b[l++]=0xc4; b[l++]=(r>>8&0xe0)|(1+(r>>16)%3); b[l++]=r>>24; b[l++]=r>>32;}
  else { if(r>>8&1)b[l++]=0x66; if(r>>9&1)b[l++]=0x40|(r>>12&15); b[l++]=0xd8|(r>>16&7);}
  uint8_t modrm=r>>40; if(modrm<0xc0)modrm=(modrm&0x38)|3; b[l++]=modrm; b[l++]=r>>48;b[l++]=0xc3;
  struct insn in; memset(b+l,0x90,16-l);
  if(!native_decode(&n,b,15,&in))continue;
  bool isx=in.exec==thunk_exec||in.exec==thunk_exec_uncached;
  ZydisDecodedInstruction di;ZydisDecodedOperand o[10];
  if(!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d,b,15,&di,o)))continue;
  if(!isx){ /* state handlers & moves in the x87/sse space only */
    const struct insn_handler*h=state_handlers;bool st=false;for(;h->exec;h++)if(h->mnemonic==di.mnemonic)st=true;
    bool mv=di.meta.isa_set==ZYDIS_ISA_SET_SSE||di.meta.isa_set==ZYDIS_ISA_SET_SSE2||di.meta.isa_set==ZYDIS_ISA_SET_AVX||di.meta.isa_set==ZYDIS_ISA_SET_AVX2||di.meta.isa_set==ZYDIS_ISA_SET_SSE4;
    if(!st&&!mv)continue; if(strncmp(ZydisMnemonicGetString(di.mnemonic),"x",1)==0&&di.meta.isa_set!=ZYDIS_ISA_SET_SSE&&di.meta.isa_set!=ZYDIS_ISA_SET_SSE2)continue;
    if(strstr(ZydisMnemonicGetString(di.mnemonic),"fence")||strstr(ZydisMnemonicGetString(di.mnemonic),"clflush")||strstr(ZydisMnemonicGetString(di.mnemonic),"prefetch")||di.mnemonic==ZYDIS_MNEMONIC_PAUSE)continue;
  }
  if(di.meta.isa_set==ZYDIS_ISA_SET_RDRAND||di.meta.isa_set==ZYDIS_ISA_SET_RDSEED)continue;
  bool sp=false,rdi=false,badmem=false;for(int i=0;i<di.operand_count;i++){if(o[i].type==ZYDIS_OPERAND_TYPE_REGISTER){ZydisRegister q=ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,o[i].reg.value);if(q==ZYDIS_REGISTER_RSP)sp=true;}
    if(o[i].type==ZYDIS_OPERAND_TYPE_MEMORY){if(o[i].mem.base==ZYDIS_REGISTER_RDI&&o[i].visibility!=1)rdi=true;else if(o[i].mem.base!=ZYDIS_REGISTER_RBX||o[i].mem.index!=ZYDIS_REGISTER_NONE){badmem=true;}}}
  if(sp||badmem)continue;
  bool rbxop=false;
  bound++; b[di.length]=0xc3; memcpy(pg,b,16);
  for(int rd=0;rd<6;rd++){
   struct native_state h,g; native_random_state(&n,&h,rd&1); native_random_memory(&n);
   unsigned off=1024+(rd>2?native_random(&n)%64:0);
   if(di.mnemonic==ZYDIS_MNEMONIC_FXRSTOR||di.mnemonic==ZYDIS_MNEMONIC_FXRSTOR64){n.page[off+26]=n.page[off+27]=0;testvm_put(&n.vm,NATIVE_PAGE,n.page,4096);}
   if(di.mnemonic==ZYDIS_MNEMONIC_LDMXCSR||di.mnemonic==ZYDIS_MNEMONIC_VLDMXCSR){n.page[off+2]=n.page[off+3]=0;testvm_put(&n.vm,NATIVE_PAGE,n.page,4096);}
   int ar=rdi?GPR_RDI:GPR_RBX; bool hasmem=(b[0],di.raw.modrm.mod!=3)||rdi;
   g=h; if(hasmem){h.gpr[ar]=(uintptr_t)n.page+off;g.gpr[ar]=NATIVE_PAGE+off;}
   for(int i=0;i<di.operand_count;i++)if(hasmem&&o[i].type==ZYDIS_OPERAND_TYPE_REGISTER){ZydisRegister q=ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,o[i].reg.value);if(q==ZYDIS_REGISTER_RBX||q==(ar==GPR_RDI?ZYDIS_REGISTER_RDI:ZYDIS_REGISTER_RBX))rbxop=true;}
   if(rbxop)break;
   int hv=native_run_host(&h,pg),gv=native_run_guest(&n,&g,&in);
   if(hasmem&&h.gpr[ar]==(uintptr_t)n.page+off)h.gpr[ar]=NATIVE_PAGE+off;
   const char*df=hv!=gv?"vector":native_difference(&h,&g); if(!df&&!native_memory_equal(&n))df="memory";
   if(df){diff++;printf("%s: %s (%d/%d) bytes",ZydisMnemonicGetString(di.mnemonic),df,hv,gv);for(int i=0;i<di.length;i++)printf(" %02x",b[i]);puts("");break;}
  }
 }
 struct thunk_set_stats st;thunk_set_get_stats(n.vm.thunks,&st);
 printf("bound %ld diffs %ld thunks %lu code %lu uncached %lu refused %lu\n",bound,diff,st.thunks,st.code_bytes,st.uncached_runs,st.refused);}
